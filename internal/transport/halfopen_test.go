package transport

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rollcall-dev/rollcall/internal/wire"
)

// A peer that is there no more, or has stopped to read or to answer, holds nobody up for longer than it may. Time is the bubble's.

// took runs f and checks for how long.
func took(t *testing.T, want time.Duration, what string, f func()) {
	t.Helper()
	began := time.Now()
	f()
	if d := time.Since(began); d != want {
		t.Errorf("%s took %s, want %s", what, d, want)
	}
}

func isEnd(t *testing.T, err error, code wire.CloseCode, local bool) {
	t.Helper()
	var e *CloseError
	if !errors.As(err, &e) || e.Code != code || e.Local != local {
		t.Errorf("the session ended with %v (%+v), want code %d, local %v", err, e, code, local)
	}
}

func TestWriteToOneWhoDoesNotRead(t *testing.T) {
	for name, end := range map[string]func(*testing.T, net.Conn) *Conn{"server": func(t *testing.T, conn net.Conn) *Conn {
		return acceptOn(t, conn, wire.Subprotocol)
	}, "client": func(t *testing.T, conn net.Conn) *Conn {
		c, err := Dial(t.Context(), DialOptions{URL: "http://gateway", Transport: overClient{conn}})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conn, _ := net.Pipe()
				c := end(t, conn)
				defer c.CloseNow()
				ends := make(chan error)
				go func() {
					_, err := c.Read()
					ends <- err
				}()
				took(t, writeTimeout, "a write", func() {
					if err := c.Write([]byte("hello")); err == nil {
						t.Error("a message was written to nobody")
					}
				})
				took(t, 0, "the read then", func() { isEnd(t, <-ends, wire.CloseAbnormal, false) })
				if err := c.Write([]byte("again")); err == nil {
					t.Error("a dropped connection takes messages")
				}
			})
		})
	}
}

// Pings of one who does not read the pongs.
func TestPongToOneWhoDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, peer := net.Pipe()
		c := acceptOn(t, conn, wire.Subprotocol)
		defer c.CloseNow()
		go func() { _, _ = peer.Write(client(fin|opPing, "?")) }()
		began := time.Now()
		_, err := c.Read()
		isEnd(t, err, wire.CloseAbnormal, false)
		if d := time.Since(began); d > writeTimeout {
			t.Errorf("the reader was held up for %s", d)
		}
	})
}

func TestCloseToOneWhoDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, _ := net.Pipe()
		c := acceptOn(t, conn, wire.Subprotocol)
		defer c.CloseNow()
		ends := make(chan error, 1)
		go func() {
			_, err := c.Read()
			ends <- err
		}()
		synctest.Wait()
		took(t, closeTimeout, "Close", func() { c.Close(wire.CloseDraining, "draining") })
		took(t, 0, "the read then", func() { isEnd(t, <-ends, wire.CloseDraining, true) })
	})
}

// goOn sends b again and again, as long as it is taken.
func goOn(to net.Conn, b []byte) (stopped chan struct{}) {
	stopped = make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			if _, err := to.Write(b); err != nil {
				return
			}
			<-time.After(100 * time.Millisecond)
		}
	}()
	return stopped
}

func TestCloseToOneWhoDoesNotAnswer(t *testing.T) {
	for _, reading := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			conn, peer := net.Pipe()
			c := acceptOn(t, conn, wire.Subprotocol)
			defer c.CloseNow()
			received := make(chan said, 1)
			go func() {
				s, _ := hear(peer, false)
				received <- s
			}()
			stopped := goOn(peer, client(fin|opBinary, "late")) // as if nothing had been said
			ends := make(chan error, 1)
			read := func() {
				var err error
				for err == nil {
					_, err = c.Read()
				}
				ends <- err
			}
			wait := closeTimeout
			if reading {
				go read()
				synctest.Wait()
				wait = 0 // the reader sees to the rest
			}
			took(t, wait, "Close", func() { c.Close(wire.CloseReplaced, "session-replaced") })
			if !reading {
				go read()
			}
			took(t, closeTimeout-wait, "the read then", func() { isEnd(t, <-ends, wire.CloseReplaced, true) })
			if s := <-received; s.close != closing(4409, "session-replaced") || len(s.messages) > 0 {
				t.Errorf("the peer received %+v", s)
			}
			<-stopped
		})
	}
}

// A violation by one who does not read the answer, and by one who goes on for ever.
func TestViolationByOneWhoDoesNotStop(t *testing.T) {
	for _, reads := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			conn, peer := net.Pipe()
			c := acceptOn(t, conn, wire.Subprotocol)
			defer c.CloseNow()
			stopped := goOn(peer, []byte{0xff})
			if reads {
				go func() { _, _ = io.Copy(io.Discard, peer) }()
			}
			took(t, closeTimeout, "the read", func() {
				_, err := c.Read()
				isEnd(t, err, wire.CloseProtocol, true)
			})
			<-stopped
		})
	}
}

func TestCloseNowWaitsForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, _ := net.Pipe()
		c := acceptOn(t, conn, wire.Subprotocol)
		done := make(chan error, 2)
		go func() {
			_, err := c.Read()
			done <- err
		}()
		go func() { done <- c.Write([]byte("hello")) }()
		synctest.Wait()
		took(t, 0, "CloseNow", func() {
			c.CloseNow()
			c.CloseNow()
			isEnd(t, <-done, wire.CloseAbnormal, true)
			isEnd(t, <-done, wire.CloseAbnormal, true)
		})
		took(t, 0, "Close after it", func() { c.Close(wire.CloseNormal, "") })
	})
}

// The clock of this one is real: in a bubble it would stand still while Close waits for a lock.
func TestCloseWhileAWriteIsStuck(t *testing.T) {
	conn, _ := net.Pipe()
	c := acceptOn(t, conn, wire.Subprotocol)
	defer c.CloseNow()
	written := make(chan error, 1)
	go func() { written <- c.Write([]byte(strings.Repeat("x", 100))) }()
	for c.guard.mu.TryLock() { // until the write has it
		c.guard.mu.Unlock()
	}
	began := time.Now()
	c.Close(wire.CloseDraining, "draining")
	if d := time.Since(began); d > closeTimeout+writeTimeout/4 {
		t.Errorf("Close took %s", d)
	}
	isEnd(t, <-written, wire.CloseDraining, true)
	_, err := c.Read()
	isEnd(t, err, wire.CloseDraining, true)
}

// A message that is on its way when its session is closed arrives whole, and the close after it; nothing comes after that.
func TestCloseInTheMiddleOfAMessage(t *testing.T) {
	ours, theirs := net.Pipe()
	received := make(chan said, 1)
	go func() {
		s, err := hear(theirs, false)
		if err != nil {
			t.Error(err)
		}
		received <- s
	}()
	g := newGuard(ours, ours, false, false, wire.MaxAgentMessageBytes)
	message := strings.Repeat("x", 3*serverRecord)
	sent := bytesOf(fin|opBinary, false, message)
	write := func(b []byte) {
		t.Helper()
		if n, err := g.Write(b); n != len(b) || err != nil {
			t.Fatalf("%d of %d bytes were taken: %v", n, len(b), err)
		}
	}
	write(sent[:serverRecord])
	if err := g.sayClose(closeFrame(wire.CloseDraining, "draining", false)); err != nil {
		t.Fatal(err)
	}
	write(sent[serverRecord:])
	write(bytesOf(fin|opBinary, false, "late"))
	write(bytesOf(fin|opClose, false, goodbye))
	g.finish()
	if got := <-received; len(got.messages) != 1 || got.messages[0] != message || got.close != closing(1012, "draining") {
		t.Errorf("the peer received %d messages and %q", len(got.messages), got.close)
	}
}
