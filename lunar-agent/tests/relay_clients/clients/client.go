// Go as it is: `client net/http PLAN`; as client.py.
package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
)

type ask struct {
	Method, Url, File, Trace string
	Chunked                  bool
}

type said struct {
	Status  int         `json:"status"`
	Headers [][2]string `json:"headers"`
	Length  int64       `json:"length"`
	Sha256  string      `json:"sha256"`
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	text, err := os.ReadFile(os.Args[2])
	must(err)
	var plan []ask
	must(json.Unmarshal(text, &plan))
	for _, one := range plan {
		var body io.Reader
		var length int64
		if one.File != "" {
			file, err := os.Open(one.File)
			must(err)
			info, err := file.Stat()
			must(err)
			length, body = info.Size(), file
		}
		request, err := http.NewRequest(one.Method, one.Url, body)
		must(err)
		// Without it, the body goes in chunks.
		if body != nil && !one.Chunked {
			request.ContentLength = length
			if length == 0 {
				request.Body = http.NoBody
			}
		}
		request.Header.Set("x-trace", one.Trace)
		answer, err := http.DefaultTransport.RoundTrip(request)
		must(err)
		hash := sha256.New()
		read, err := io.Copy(hash, answer.Body)
		must(err)
		answer.Body.Close()
		out := said{Status: answer.StatusCode, Length: read, Sha256: hex.EncodeToString(hash.Sum(nil))}
		for name, values := range answer.Header {
			for _, value := range values {
				out.Headers = append(out.Headers, [2]string{name, value})
			}
		}
		line, err := json.Marshal(out)
		must(err)
		fmt.Println(string(line))
	}
}
