package listen

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
)

const upgrade = "GET /session HTTP/1.1\r\nHost: g\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"

// takeOver answers with 101 and lets f have the connection.
func takeOver(t *testing.T, config Config, f func(*bufio.ReadWriter, io.ReadWriter) bool) (*Server, string) {
	t.Helper()
	var agents atomic.Int32
	config.Welcome = func(_ *tls.ConnectionState, peer *Peer) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			peer.Vouch(fmt.Sprint("agent-", agents.Add(1)))
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", "echo")
			w.WriteHeader(http.StatusSwitchingProtocols)
			conn, buffered, err := http.NewResponseController(w).Hijack()
			if err != nil { // displaced: nobody is there any more
				return
			}
			if _, _, err := http.NewResponseController(w).Hijack(); err == nil {
				t.Error("a connection was hijacked twice")
			}
			if _, err := w.Write([]byte("late")); err == nil {
				t.Error("an answer was written after the hijack")
			}
			if f != nil {
				peer.Hand(func() bool { return f(buffered, conn) })
			}
		})
	}
	return start(t, config, nil)
}

// connect sends the upgrade and more, and reads the 101.
func connect(t *testing.T, addr, more string) (*tls.Conn, *bufio.Reader) {
	t.Helper()
	c := dial(t, addr, clientTLS())
	if _, err := io.WriteString(c, upgrade+more); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(c)
	resp, err := http.ReadResponse(in, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Upgrade") != "echo" || resp.Header.Get("Connection") != "Upgrade" {
		t.Fatalf("%v %v", resp, err)
	}
	return c, in
}

// echoLine is one step: a line and its echo, until one says that it is the last.
func echoLine(buffered *bufio.ReadWriter, _ io.ReadWriter) bool {
	line, err := buffered.ReadString('\n')
	_, _ = buffered.WriteString(line)
	return buffered.Flush() == nil && err == nil && line != "last\n"
}

// A session outlives every deadline of a request, keeps its place, and gets what came with its upgrade.
func TestHandedOverConnection(t *testing.T) {
	short := 50 * time.Millisecond
	s, addr := takeOver(t, Config{IdleTimeout: short, BodyTimeout: short, WriteTimeout: short, HandshakeTimeout: time.Second}, echoLine)
	c, in := connect(t, addr, "early\n")
	eventually(t, "the handover", func() bool { _, strangers, known := s.Count(); return strangers == 0 && known == 1 })
	deadline := time.After(4 * short)
	for _, line := range []string{"early\n", "hello\n", "again\n", "last\n"} {
		if line == "again\n" {
			<-deadline
			if _, _, known := s.Count(); known != 1 {
				t.Errorf("%d connections are counted", known)
			}
		}
		if line != "early\n" {
			if _, err := io.WriteString(c, line); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := in.ReadString('\n'); err != nil || got != line {
			t.Fatalf("got %q, %v; want %q", got, err, line)
		}
	}
	if _, err := in.ReadByte(); err != io.EOF {
		t.Errorf("the connection goes on after the last step: %v", err)
	}
	eventually(t, "the end", func() bool { _, _, known := s.Count(); return known == 0 })
}

// eventually polls, because nothing tells.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !done(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("%s did not come", what)
		}
	}
}

func TestHijackedAndHandedToNobody(t *testing.T) {
	_, addr := takeOver(t, Config{}, nil)
	c, in := connect(t, addr, "")
	if _, err := in.ReadByte(); err != io.EOF {
		t.Errorf("the connection goes on: %v", err)
	}
	_ = c.Close()
}

// A drain waits for sessions as for requests, and then ends them: the server does not hang, and nothing is left running.
func TestShutdownOfSessions(t *testing.T) {
	ended := make(chan error, 1)
	s, addr := takeOver(t, Config{}, func(_ *bufio.ReadWriter, conn io.ReadWriter) bool {
		_, err := conn.Read(make([]byte, 1))
		ended <- err
		return false
	})
	_, in := connect(t, addr, "")
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan struct{})
	go func() {
		s.Shutdown(ctx)
		close(stopped)
	}()
	select {
	case <-ended:
		t.Error("the session ended before its time")
	case <-stopped:
		t.Error("Shutdown did not wait for the session")
	case <-time.After(50 * time.Millisecond):
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("the session read something")
	}
	<-stopped
	if _, err := in.ReadByte(); err == nil {
		t.Error("the client still reads")
	}
}

// A panic in one session is the end of that one.
func TestPanicInASession(t *testing.T) {
	var log atomic.Pointer[string]
	config := Config{Log: funcr.New(func(_, args string) { log.Store(&args) }, funcr.Options{})}
	s, addr := takeOver(t, config, func(buffered *bufio.ReadWriter, conn io.ReadWriter) bool {
		if !echoLine(buffered, conn) {
			panic("on purpose")
		}
		return true
	})
	_, in := connect(t, addr, "one\ntwo\nthree\nlast\n")
	for _, line := range []string{"one\n", "two\n", "three\n", "last\n"} {
		if got, err := in.ReadString('\n'); err != nil || got != line {
			t.Fatalf("got %q, %v; want %q", got, err, line)
		}
	}
	if _, err := in.ReadByte(); err == nil {
		t.Error("the connection goes on")
	}
	eventually(t, "the end", func() bool { _, _, known := s.Count(); return known == 0 })
	if text := log.Load(); text == nil || !strings.Contains(*text, "on purpose") {
		t.Errorf("the log says %v", text)
	}
}

// However many there are: who is in a session loses it to no newcomer for having been silent.
func TestFullOfSessions(t *testing.T) {
	s, addr := takeOver(t, Config{MaxConnections: 1}, echoLine)
	c, in := connect(t, addr, "")
	eventually(t, "the handover", func() bool { _, _, known := s.Count(); return known == 1 })
	<-time.After(2 * patience)
	late := dial(t, addr, clientTLS())
	_, _ = io.WriteString(late, upgrade)
	if n, err := late.Read(make([]byte, 1)); n == 0 && err == nil {
		t.Error("nothing was read")
	}
	_, _ = io.WriteString(c, "still here\n")
	if got, err := in.ReadString('\n'); err != nil || got != "still here\n" {
		t.Errorf("the session got %q, %v", got, err)
	}
}
