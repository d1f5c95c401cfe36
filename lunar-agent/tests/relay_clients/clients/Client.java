import java.io.InputStream;
import java.net.HttpURLConnection;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;

/** Java as it is: `Client URLConnection|HttpClient PLAN`, as client.py, but that the plan has a line of tabs for each request. */
public class Client {
    static final HttpClient CLIENT = HttpClient.newHttpClient();

    public static void main(String[] args) throws Exception {
        for (String line : Files.readAllLines(Path.of(args[1]))) {
            String[] ask = line.split("\t", -1);
            byte[] body = ask[3].isEmpty() ? null : Files.readAllBytes(Path.of(ask[3]));
            boolean chunked = ask[4].equals("chunked");
            if (args[0].equals("HttpClient")) byClient(ask, body, chunked);
            else byConnection(ask, body, chunked);
        }
    }

    /** Asks for HTTP/2 with an upgrade of each first request, as it does by default. */
    static void byClient(String[] ask, byte[] body, boolean chunked) throws Exception {
        BodyPublisher publisher = BodyPublishers.noBody();
        if (body != null && chunked) publisher = BodyPublishers.ofInputStream(() -> new java.io.ByteArrayInputStream(body));
        else if (body != null) publisher = BodyPublishers.ofByteArray(body);
        HttpRequest request = HttpRequest.newBuilder(URI.create(ask[1])).method(ask[0], publisher).header("x-trace", ask[2]).build();
        HttpResponse<byte[]> answer = CLIENT.send(request, BodyHandlers.ofByteArray());
        say(answer.statusCode(), answer.headers().map(), answer.body());
    }

    static void byConnection(String[] ask, byte[] body, boolean chunked) throws Exception {
        HttpURLConnection connection = (HttpURLConnection) URI.create(ask[1]).toURL().openConnection();
        connection.setRequestMethod(ask[0]);
        connection.setRequestProperty("x-trace", ask[2]);
        if (body != null) {
            connection.setDoOutput(true);
            if (chunked) connection.setChunkedStreamingMode(10_000);
            else connection.setFixedLengthStreamingMode(body.length);
            connection.getOutputStream().write(body);
            connection.getOutputStream().close();
        }
        int status = connection.getResponseCode();
        InputStream stream = status < 400 ? connection.getInputStream() : connection.getErrorStream();
        say(status, connection.getHeaderFields(), stream == null ? new byte[0] : stream.readAllBytes());
    }

    static void say(int status, Map<String, List<String>> headers, byte[] body) throws Exception {
        String sha256 = HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(body));
        StringBuilder pairs = new StringBuilder();
        headers.forEach((name, values) -> {
            for (String value : values) {
                // The status line has no name.
                if (name == null) continue;
                String separator = pairs.length() == 0 ? "" : ",";
                pairs.append(separator).append("[\"").append(name).append("\",\"").append(value).append("\"]");
            }
        });
        System.out.printf("{\"status\":%d,\"headers\":[%s],\"length\":%d,\"sha256\":\"%s\"}%n", status, pairs, body.length, sha256);
    }
}
