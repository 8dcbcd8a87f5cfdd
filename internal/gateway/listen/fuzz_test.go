package listen

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"

	"github.com/rollcall-dev/rollcall/internal/wire"
)

// pipe lets a conn read and write bytes in memory, in the place of crypto/tls's.
type pipe struct {
	net.Conn
	in  *bytes.Reader
	out bytes.Buffer
}

func (p *pipe) Read(b []byte) (int, error)       { return p.in.Read(b) }
func (p *pipe) Write(b []byte) (int, error)      { return p.out.Write(b) }
func (p *pipe) SetReadDeadline(time.Time) error  { return nil }
func (p *pipe) SetWriteDeadline(time.Time) error { return nil }
func (p *pipe) CloseWrite() error                { return nil }
func (p *pipe) Close() error                     { return nil }

// FuzzRequests feeds bytes to the request reader as a client would, several requests on one connection. Whatever they are: nothing panics, no
// more requests reach the handler than net/http finds in the same bytes, each answer parses, and after one that says close nothing follows.
func FuzzRequests(f *testing.F) {
	for _, seed := range []string{
		"GET /a HTTP/1.1\r\nHost: g\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: g\r\n\r\nPOST /b HTTP/1.1\r\nHost: g\r\nContent-Length: 2\r\n\r\nhiGET /c HTTP/1.1\r\nHost: g\r\n\r\n",
		"POST /a HTTP/1.1\r\nHost: g\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /b HTTP/1.1\r\n\r\n",
		"POST /a HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nhi",
		"POST /ignore HTTP/1.1\r\nContent-Length: 70000\r\n\r\n" + strings.Repeat("x", 100),
		"HEAD / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\r\n\r\n", "GET /split HTTP/1.1\n\n", headers(9000),
		"CONNECT g:443 HTTP/1.1\r\n\r\n", "GET http://[::1]:x/ HTTP/1.1\r\n\r\n", "POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	s := New(Config{Log: logr.Discard()})
	f.Fuzz(func(t *testing.T, data []byte) {
		served := 0
		handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			served++
			if r.ContentLength < 0 || len(r.TransferEncoding) > 0 {
				t.Error("a body of unknown length reached the handler")
			}
			if r.URL.Path == "/panic" {
				return
			}
			echo(w, r)
		})
		p := &pipe{in: bytes.NewReader(data)}
		c := &conn{server: s, raw: &rawConn{Conn: p, left: -1}, stream: p, handler: handler}
		c.serve()
		if most := countRequests(data); served > most {
			t.Errorf("%d requests reached the handler, net/http finds %d", served, most)
		}
		in := bufio.NewReader(&p.out)
		for closed := false; ; {
			if _, err := in.Peek(1); err == io.EOF {
				return
			}
			if closed {
				t.Fatal("an answer follows one that said close")
			}
			resp, err := http.ReadResponse(in, &http.Request{Method: http.MethodGet})
			if err != nil {
				t.Fatalf("an answer does not parse: %v", err)
			}
			if resp.ContentLength > 0 && isHead(data) {
				return // answers to HEAD have a length and no body: the client would know, this reader does not
			}
			if n, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != 100 && resp.ContentLength > 0 && n != resp.ContentLength {
				t.Fatalf("a body of %d bytes with the length %d: %v", n, resp.ContentLength, err)
			}
			_ = resp.Body.Close()
			closed = resp.Close
		}
	})
}

func isHead(data []byte) bool { return bytes.Contains(data, []byte("HEAD")) }

// countRequests is how many requests net/http finds one after another.
func countRequests(data []byte) (n int) {
	in := bufio.NewReader(bytes.NewReader(data))
	for {
		r, err := http.ReadRequest(in)
		if err != nil {
			return n
		}
		n++
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return n
		}
	}
}

func BenchmarkExchange(b *testing.B) {
	s := New(Config{Log: logr.Discard()})
	request := []byte("POST /agent/v1/heartbeat HTTP/1.1\r\nHost: gateway:8443\r\nUser-Agent: rollcall-agent\r\nContent-Type: application/x-protobuf\r\n" +
		wire.HeaderAgentVersion + ": 8.0.0\r\nContent-Length: 400\r\n\r\n" + strings.Repeat("x", 400))
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := wire.ReadBody(r, wire.MaxHeartbeatBytes)
		w.Header().Set("Content-Type", "application/x-protobuf")
		_, _ = w.Write(body)
	})
	p := &pipe{in: bytes.NewReader(nil)}
	c := &conn{server: s, raw: &rawConn{Conn: p, left: -1}, stream: p, handler: handler}
	in := bufio.NewReaderSize(c, readerBytes)
	b.ReportAllocs()
	for b.Loop() {
		p.in.Reset(request)
		p.out.Reset()
		if keep, _ := c.exchange(in); !keep {
			b.Fatal("the connection ended")
		}
	}
}
