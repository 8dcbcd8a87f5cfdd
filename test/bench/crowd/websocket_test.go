package main

import (
	"bytes"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// peer answers each message with itself, and a ping in between, until it is told to close.
func peer(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			http.Error(w, "too old", http.StatusForbidden)
			return
		}
		up := websocket.Upgrader{Subprotocols: []string{"v1"}}
		c, err := up.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer c.Close()
		for {
			kind, m, err := c.ReadMessage()
			if err != nil {
				return
			}
			if string(m) == "close" {
				_ = c.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(4409, "session-replaced"))
				return
			}
			_ = c.WriteControl(websocket.PingMessage, []byte("ping"), time.Now().Add(time.Second))
			_ = c.WriteMessage(kind, m)
		}
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func dialPeer(t *testing.T, address, path string) (*ws, error) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return upgrade(c, address, path, http.Header{"Sec-Websocket-Protocol": {"v1"}})
}

// Messages of all three forms of length go there and back, past pings.
func TestMessages(t *testing.T) {
	w, err := dialPeer(t, peer(t), "/")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 1, 3, 125, 126, 127, 65535, 65536, 300_000} {
		message := bytes.Repeat([]byte("rollcall"), n/8+1)[:n]
		if err := w.write(opBinary, message); err != nil {
			t.Fatal(err)
		}
		got, err := w.read()
		if err != nil || !bytes.Equal(got, message) {
			t.Fatalf("of %d bytes %d came back, or others: %v", n, len(got), err)
		}
	}
	if err := w.write(opBinary, []byte("close")); err != nil {
		t.Fatal(err)
	}
	if _, err := w.read(); err == nil || !strings.Contains(err.Error(), "4409 session-replaced") {
		t.Errorf("closed: %v", err)
	}
}

func TestRefusedUpgrade(t *testing.T) {
	_, err := dialPeer(t, peer(t), "/no")
	if err == nil || !strings.Contains(err.Error(), "403 Forbidden: too old") {
		t.Errorf("%v", err)
	}
}

func TestAnswers(t *testing.T) {
	for text, want := range map[string]uint64{"\x08\x07\x12\x00": 7, "\x08\x80\x01": 128, "\x12\x00": 0, "": 0, "\xff": 0} {
		if got := answers([]byte(text)); got != want {
			t.Errorf("%q answers %d, want %d", text, got, want)
		}
	}
}
