package listen

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rollcall-dev/rollcall/internal/wire"
)

// echo answers with what it understood of the request.
var echo = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/panic":
		panic("on purpose")
	case "/ignore":
		_, _ = io.WriteString(w, "ignored")
		return
	case "/split":
		w.Header().Set("Retry-After", "1\r\nSet-Cookie: stolen=1\r\n\r\n<html>")
		w.Header().Set("X-\r\nBad", "1")
	case "/empty":
		w.WriteHeader(http.StatusNoContent)
		return
	case "/same":
		w.Header().Set("ETag", `"x"`)
		w.WriteHeader(http.StatusNotModified)
		return
	case "/close":
		w.Header().Set("Connection", "close")
	}
	body, problem := []byte(nil), (*wire.Problem)(nil)
	if r.ContentLength > 0 {
		if body, problem = wire.ReadBody(r, 100); problem != nil {
			problem.Write(w)
			return
		}
	}
	_, _ = fmt.Fprintf(w, "%s %s %q", r.Method, r.URL.Path, body)
})

func headers(size int) string {
	line := "GET / HTTP/1.1\r\nHost: gateway\r\n"
	for size-len(line)-2 > 1000 {
		line += "X-Fill: " + strings.Repeat("x", 990) + "\r\n"
	}
	return line + "X-Last: " + strings.Repeat("y", size-len(line)-2-len("X-Last: \r\n")) + "\r\n\r\n"
}

func TestRequests(t *testing.T) {
	_, addr := start(t, Config{}, echo)
	post := func(path string, n int, body string) string {
		return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: g\r\nContent-Length: %d\r\n\r\n%s", path, n, body)
	}
	const get = "GET /a HTTP/1.1\r\nHost: g\r\n\r\n"
	for _, test := range []struct {
		name, request string
		want          []string // status and body of each answer; a problem by its name
		closed        bool
	}{
		{"get", get, []string{`200 GET /a ""`}, false},
		{"two in a row, sent at once", get + post("/b", 2, "hi") + get, []string{`200 GET /a ""`, `200 POST /b "hi"`, `200 GET /a ""`}, false},
		{"the client closes", "GET /a HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n" + get, []string{`200 GET /a ""`}, true},
		{"the handler closes", "GET /close HTTP/1.1\r\nHost: g\r\n\r\n" + get, []string{`200 GET /close ""`}, true},
		{"HTTP/1.0", "GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", []string{`200 GET /a ""`}, true},
		{"HTTP/1.0 with a transfer encoding", "POST /a HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n" + get, []string{`200 POST /a ""`}, true},
		{"HEAD has no body", "HEAD /a HTTP/1.1\r\nHost: g\r\n\r\n", []string{`200 `}, false},
		{"no content", "POST /empty HTTP/1.1\r\nHost: g\r\n\r\n" + get, []string{`204 `, `200 GET /a ""`}, false},
		{"not modified", "GET /same HTTP/1.1\r\nHost: g\r\n\r\n" + get, []string{`304 `, `200 GET /a ""`}, false},
		{"a small body that nobody wants", post("/ignore", 4, "body") + get, []string{`200 ignored`, `200 GET /a ""`}, false},
		{"a large body that nobody wants", post("/ignore", maxDiscard+1, "begun"), []string{`200 ignored`}, true},
		{"too large for the handler, refused unread", post("/a", 101, strings.Repeat("x", 101)) + get, []string{`413 payload-too-large`, `200 GET /a ""`}, false},
		{"far too large, refused while it is sent", post("/a", 1<<30, strings.Repeat("x", 1<<19)), []string{`413 payload-too-large`}, true},
		{"a body that stops", post("/a", 5, "hi"), nil, false},
		{"chunked", "POST /a HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", []string{`411 length-required`}, true},
		{
			"length and chunked: smuggling", "POST /a HTTP/1.1\r\nHost: g\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + get,
			[]string{`411 length-required`},
			true,
		},
		{"two transfer encodings", "POST /a HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n", []string{`400 malformed`}, true},
		{"an unknown transfer encoding", "POST /a HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: xchunked\r\n\r\n", []string{`400 malformed`}, true},
		{"two lengths", "POST /a HTTP/1.1\r\nHost: g\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi", []string{`400 malformed`}, true},
		{"a negative length", "POST /a HTTP/1.1\r\nHost: g\r\nContent-Length: -1\r\n\r\n", []string{`400 malformed`}, true},
		{"a length with a sign", "POST /a HTTP/1.1\r\nHost: g\r\nContent-Length: +2\r\n\r\nhi", []string{`400 malformed`}, true},
		{"a space before the colon", "POST /a HTTP/1.1\r\nHost: g\r\nContent-Length : 2\r\n\r\nhi", []string{`400 malformed`}, true},
		{"a control character in a value", "GET /a HTTP/1.1\r\nHost: g\r\nX: a\x01b\r\n\r\n", []string{`400 malformed`}, true},
		{"two hosts", "GET /a HTTP/1.1\r\nHost: g\r\nHost: h\r\n\r\n", []string{`400 malformed`}, true},
		{"HTTP/2's preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", []string{`400 malformed`}, true},
		{"HTTP/3.0", "GET /a HTTP/3.0\r\n\r\n", []string{`400 malformed`}, true},
		{"no HTTP", "hello\r\n\r\n", []string{`400 malformed`}, true},
		{"binary", "\x00\x01\x02\xff\n", []string{`400 malformed`}, true},
		{"a header block of 8 KiB", headers(wire.MaxHeaderBytes) + get, []string{`200 GET / ""`, `200 GET /a ""`}, false},
		{"one byte more", headers(wire.MaxHeaderBytes + 1), []string{`413 payload-too-large`}, true},
		{"the second block too large", get + headers(wire.MaxHeaderBytes+1), []string{`200 GET /a ""`, `413 payload-too-large`}, true},
		{"a header block without end", "GET / HTTP/1.1\r\nX: " + strings.Repeat("x", 1<<19), []string{`413 payload-too-large`}, true},
		{"a panic", "GET /panic HTTP/1.1\r\nHost: g\r\n\r\n" + get, []string{`500 internal`}, true},
		{"expect, and the handler does not ask", "POST /ignore HTTP/1.1\r\nHost: g\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n", []string{`200 ignored`}, true},
		{"a value cannot begin a header", "GET /split HTTP/1.1\r\nHost: g\r\n\r\n" + get, []string{`200 GET /split ""`, `200 GET /a ""`}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			replies, closed := exchange(t, addr, test.request, len(test.want))
			var got []string
			for _, r := range replies {
				got = append(got, fmt.Sprintf("%d %s", r.status, outcome(r.status, r.header, r.body)))
				if r.header.Get("Set-Cookie") != "" {
					t.Error("a header was smuggled into the answer")
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("answers (-want +got):\n%s", diff)
			}
			if closed != test.closed {
				t.Errorf("closed afterwards: %v, want %v", closed, test.closed)
			}
			if n := len(replies); n > 0 && replies[n-1].last != test.closed {
				t.Errorf("the last answer says that the connection ends: %v, want %v", !test.closed, test.closed)
			}
		})
	}
}

// outcome is the body, or the name of the problem in it.
func outcome(status int, h http.Header, body string) string {
	if p, ok := wire.ParseProblem(status, h.Get("Content-Type"), []byte(body)); ok {
		return string(p.Name)
	}
	return body
}

func TestExpectContinue(t *testing.T) {
	_, addr := start(t, Config{}, echo)
	c := dial(t, addr, clientTLS())
	in := bufio.NewReader(c)
	for range 2 { // the connection lives on
		_, _ = io.WriteString(c, "POST /a HTTP/1.1\r\nHost: g\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
		if line, err := in.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
			t.Fatalf("got %q, %v", line, err)
		}
		if line, err := in.ReadString('\n'); err != nil || line != "\r\n" {
			t.Fatalf("got %q, %v", line, err)
		}
		_, _ = io.WriteString(c, "hi")
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if string(body) != `POST /a "hi"` {
			t.Errorf("got %q", body)
		}
	}
}

func TestDeadlines(t *testing.T) {
	const short = 600 * time.Millisecond // a handshake on a busy machine takes a while
	config := Config{HandshakeTimeout: short, BodyTimeout: short, IdleTimeout: 3 * short, WriteTimeout: time.Second}
	_, addr := start(t, config, echo)
	for _, test := range []struct {
		name, request string
		want          string // the problem that is answered; "": the connection is closed without a word
		after         time.Duration
	}{
		{"nothing is sent", "", "", short},
		{"half a request line", "GET /", "message-timeout", short},
		{"half a header block", "GET / HTTP/1.1\r\nHost: g\r\nX-", "message-timeout", short},
		{"half a body", "POST /a HTTP/1.1\r\nHost: g\r\nContent-Length: 5\r\n\r\nhi", "message-timeout", short},
		{"idle after a request", "GET /a HTTP/1.1\r\nHost: g\r\n\r\n", `GET /a ""`, 3 * short},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			c := dial(t, addr, clientTLS())
			_, _ = io.WriteString(c, test.request)
			in := bufio.NewReader(c)
			if test.want != "" {
				resp, err := http.ReadResponse(in, nil)
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if got := outcome(resp.StatusCode, resp.Header, string(body)); got != test.want {
					t.Errorf("got %s, want %s", got, test.want)
				}
			}
			if _, err := in.ReadByte(); err != io.EOF {
				t.Errorf("the connection should end: %v", err)
			}
			if took := time.Since(began); took < test.after || took > test.after+5*time.Second {
				t.Errorf("it ended after %s, want about %s", took, test.after)
			}
		})
	}
}

func TestShutdownFinishesWhatIsUnderWay(t *testing.T) {
	entered, finish := make(chan struct{}), make(chan struct{})
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done() // begins to drain
		<-finish
		_, _ = io.WriteString(w, "done")
	})
	s, addr := start(t, Config{}, handler)
	idle := dial(t, addr, clientTLS())
	working := dial(t, addr, clientTLS())
	_, _ = io.WriteString(working, "GET / HTTP/1.1\r\nHost: g\r\n\r\n")
	<-entered
	down := make(chan struct{})
	go func() {
		s.Shutdown(t.Context())
		close(down)
	}()
	if _, err := idle.Read(make([]byte, 1)); err == nil {
		t.Error("an idle connection stayed")
	}
	close(finish)
	resp, err := http.ReadResponse(bufio.NewReader(working), nil)
	if err != nil {
		t.Fatalf("the request under way got no answer: %v", err)
	}
	body, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if string(body) != "done" || !resp.Close {
		t.Errorf("got %q, close %v", body, resp.Close)
	}
	<-down
}
