// As names.c, by Go: its own resolver, or the system's, as GODEBUG says.
package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"
)

func call(name string) string {
	conn, err := net.DialTimeout("tcp", name+":80", 20*time.Second)
	if err != nil {
		return "failed: " + err.Error() + "\n"
	}
	defer conn.Close()
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return "no line: " + err.Error() + "\n"
	}
	return line
}

func main() {
	first, _ := strconv.Atoi(os.Args[1])
	count, _ := strconv.Atoi(os.Args[2])
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	for i := first; i < first+count; i++ {
		fmt.Fprint(out, call(fmt.Sprintf("n%d.%s", i, os.Args[3])))
	}
}
