package transport

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"sync"
	"testing"

	"github.com/rollcall-dev/rollcall/internal/wire"
)

// recorder is a connection that knows how it was written to.
type recorder struct {
	net.Conn
	mu     sync.Mutex
	writes []int
}

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	r.writes = append(r.writes, len(p))
	r.mu.Unlock()
	return r.Conn.Write(p)
}

func (r *recorder) take() []int {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.writes
	r.writes = nil
	return all
}

// overServer is an http.ResponseWriter whose connection is conn.
type overServer struct {
	http.ResponseWriter
	conn net.Conn
}

func (o overServer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return o.conn, bufio.NewReadWriter(bufio.NewReader(o.conn), bufio.NewWriter(o.conn)), nil
}

// acceptOn is the server's end of a session over conn, without a word of HTTP.
func acceptOn(t testing.TB, conn net.Conn, subprotocol string) *Conn {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, wire.PathSession, nil)
	r.Header = http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="},
		"Sec-Websocket-Protocol": {subprotocol},
	}
	c, problem := Accept(overServer{httptest.NewRecorder(), conn}, r)
	if problem != nil {
		t.Fatal(problem)
	}
	return c
}

// overClient is an http.RoundTripper whose connection is conn.
type overClient struct{ conn net.Conn }

func (o overClient) RoundTrip(r *http.Request) (*http.Response, error) {
	httptrace.ContextClientTrace(r.Context()).GotConn(httptrace.GotConnInfo{Conn: o.conn})
	recorded := httptest.NewRecorder()
	upgrade, problem := checkUpgrade(r)
	if problem != nil {
		return nil, problem
	}
	h := http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Protocol": upgrade.Header["Sec-Websocket-Protocol"]}
	h.Set("Sec-WebSocket-Accept", acceptOf(r.Header.Get("Sec-WebSocket-Key")))
	resp := recorded.Result()
	resp.StatusCode, resp.Header, resp.Body = http.StatusSwitchingProtocols, h, struct {
		io.ReadWriteCloser
	}{o.conn}
	return resp, nil
}

// pair is both ends of a session.
func pair(t testing.TB, subprotocol string) (server, client *Conn, toClient, toServer *recorder) {
	t.Helper()
	a, b := net.Pipe()
	toClient, toServer = &recorder{Conn: a}, &recorder{Conn: b}
	server = acceptOn(t, toClient, subprotocol)
	client, err := Dial(t.Context(), DialOptions{URL: "http://gateway", Transport: overClient{toServer}, JSON: subprotocol == wire.SubprotocolJSON})
	if err != nil {
		t.Fatal(err)
	}
	return server, client, toClient, toServer
}
