package transport

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rollcall-dev/rollcall/internal/wire"
)

// acceptOf is Sec-WebSocket-Accept for a key (RFC 6455, 4.2.2).
func acceptOf(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// rawServer answers every upgrade with head, in which %s is the right Sec-WebSocket-Accept, and lets f have the connection.
func rawServer(t *testing.T, head string, f func(net.Conn, *bufio.Reader)) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		if strings.Contains(head, "%s") {
			head = fmt.Sprintf(head, acceptOf(r.Header.Get("Sec-WebSocket-Key")))
		}
		_, _ = io.WriteString(conn, head)
		f(conn, buffered.Reader)
	}))
	t.Cleanup(s.Close)
	return s
}

const (
	upgraded = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
	accepted = upgraded + "Sec-WebSocket-Accept: %s\r\n"
	agreed   = accepted + "Sec-WebSocket-Protocol: " + wire.Subprotocol + "\r\n\r\n"
)

// What no gateway answers (RFC 6455, 4.1) gives no session, and the connection is closed.
func TestBadHandshakes(t *testing.T) {
	for name, head := range map[string]string{
		"another key's answer":     upgraded + "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: " + wire.Subprotocol + "\r\n\r\n",
		"no answer to the key":     upgraded + "Sec-WebSocket-Protocol: " + wire.Subprotocol + "\r\n\r\n",
		"no Upgrade":               strings.Replace(agreed, "Upgrade: websocket", "X: y", 1),
		"no subprotocol":           accepted + "\r\n",
		"another subprotocol":      accepted + "Sec-WebSocket-Protocol: chat\r\n\r\n",
		"the twin":                 accepted + "Sec-WebSocket-Protocol: " + wire.SubprotocolJSON + "\r\n\r\n",
		"an extension":             accepted + "Sec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Protocol: " + wire.Subprotocol + "\r\n\r\n",
		"not HTTP":                 "SSH-2.0-OpenSSH\r\n\r\n",
		"the end in the headers":   "HTTP/1.1 101 Switching",
		"101 without being HTTP/1": strings.Replace(agreed, "HTTP/1.1 101 ", "HTTP/1.1 1o1 ", 1),
	} {
		closed := make(chan struct{})
		s := rawServer(t, head, func(_ net.Conn, in *bufio.Reader) {
			defer close(closed)
			if !strings.Contains(name, "end") {
				_, _ = io.Copy(io.Discard, in)
			}
		})
		c, err := Dial(t.Context(), DialOptions{URL: s.URL, Transport: &http.Transport{DisableKeepAlives: true}})
		if err == nil {
			c.CloseNow()
			t.Errorf("%s: there is a session", name)
		}
		<-closed
	}
}

// What a gateway must not send, and what an agent sees of what it may.
func TestFramesOfAServer(t *testing.T) {
	server := func(first byte, payload string) []byte { return bytesOf(first, false, payload) }
	large := strings.Repeat("x", wire.MaxServerMessageBytes)
	for _, tc := range []struct {
		name     string
		send     []byte
		messages []string
		close    string // what the agent answers
		code     wire.CloseCode
		local    bool
	}{
		{"a message and the end", join(server(fin|opBinary, "Hello"), server(fin|opClose, closing(4409, "session-replaced"))), []string{"Hello"}, closing(4409, "session-replaced"), 4409, false},
		{"the largest message", join(server(fin|opBinary, large), server(fin|opClose, goodbye)), []string{large}, goodbye, 1000, false},
		{"fragments with a ping between", join(server(opBinary, "Hel"), server(fin|opPing, "?"), server(fin|opContinuation, "lo"), server(fin|opClose, "")), []string{"Hello"}, "", 1005, false},
		{"a mask (5.1)", client(fin|opBinary, "x"), nil, closing(1002, "malformed"), 1002, true},
		{"text where binary was agreed", server(fin|opText, "x"), nil, closing(1003, "media-type-unsupported"), 1003, true},
		{"one byte too many", headOf(fin|opBinary, false, wire.MaxServerMessageBytes+1), nil, closing(1009, "payload-too-large"), 1009, true},
		{"a reserved bit, of compression", server(fin|rsv1|opBinary, "x"), nil, closing(1002, "malformed"), 1002, true},
		{"a flood of pings", []byte(strings.Repeat(string(server(fin|opPing, "")), 2*frameBurst)), nil, closing(1008, "throttled"), 1008, true},
	} {
		answered := make(chan said, 1)
		s := rawServer(t, agreed, func(conn net.Conn, in *bufio.Reader) {
			go func() { _, _ = conn.Write(tc.send) }()
			got, err := hear(in, true)
			if err != nil {
				t.Errorf("%s: %v", tc.name, err)
			}
			answered <- got
		})
		c, err := Dial(t.Context(), DialOptions{URL: s.URL, Transport: &http.Transport{DisableKeepAlives: true}})
		if err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		var messages []string
		for {
			m, err := c.Read()
			if err != nil {
				isEnd(t, err, tc.code, tc.local)
				break
			}
			messages = append(messages, string(m))
		}
		got := <-answered
		if diff := cmp.Diff(tc.messages, messages); diff != "" || got.close != tc.close {
			t.Errorf("%s: answered with %q, want %q %.500s", tc.name, got.close, tc.close, diff)
		}
		c.CloseNow()
	}
}

// A close of an agent is masked like any other frame of it, and says what it should.
func TestCloseOfAnAgent(t *testing.T) {
	answered := make(chan said, 1)
	s := rawServer(t, agreed, func(conn net.Conn, in *bufio.Reader) {
		got, _ := hear(in, true)
		answered <- got
	})
	c, err := Dial(t.Context(), DialOptions{URL: s.URL, Transport: &http.Transport{DisableKeepAlives: true}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	if err := c.Write([]byte("last words")); err != nil {
		t.Fatal(err)
	}
	c.Close(wire.CloseGoingAway, strings.Repeat("ä", 100))
	if got := <-answered; got.close != closing(1001, strings.Repeat("ä", 61)) || len(got.messages) != 1 || got.messages[0] != "last words" {
		t.Errorf("the gateway received %+v", got)
	}
}

// A message of a gateway is one TLS record, because the library's two or three writes would be as many; those of an agent are small, because
// the gateway's end keeps a buffer of the largest.
func TestRecords(t *testing.T) {
	server, agent, toClient, toServer := pair(t, wire.Subprotocol)
	defer server.CloseNow()
	defer agent.CloseNow()
	for _, n := range []int{0, 5, 14, 15, 100, 125, 126, 1000, serverRecord - 4} {
		for _, to := range []struct{ from, to *Conn }{{server, agent}, {agent, server}} {
			written := make(chan error)
			go func() { written <- to.from.Write(make([]byte, n)) }()
			if m, err := to.to.Read(); err != nil || len(m) != n {
				t.Fatalf("%d bytes came as %d: %v", n, len(m), err)
			}
			if err := <-written; err != nil {
				t.Fatal(err)
			}
		}
		if writes := toClient.take(); len(writes) != 1 {
			t.Errorf("%d bytes are written in pieces of %v", n, writes)
		}
		for _, size := range toServer.take() {
			if size > clientRecord {
				t.Errorf("%d bytes are written in pieces of %d", n, size)
			}
		}
	}
}
