import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.net.InetSocketAddress;
import java.net.Socket;

/** As names.c, by Java's own classes. */
public class Names {
    public static void main(String[] args) {
        int first = Integer.parseInt(args[0]), end = first + Integer.parseInt(args[1]);
        StringBuilder said = new StringBuilder();
        for (int i = first; i < end; i++) {
            try (Socket socket = new Socket()) {
                // The constructor asks for the name.
                socket.connect(new InetSocketAddress("n" + i + "." + args[2], 80), 20_000);
                said.append(new BufferedReader(new InputStreamReader(socket.getInputStream())).readLine());
            } catch (IOException reason) {
                said.append("failed: ").append(reason);
            }
            said.append('\n');
        }
        System.out.print(said);
    }
}
