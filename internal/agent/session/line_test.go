package session

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/liveness"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// conn is a websocket that a test plays the other side of.
type conn struct {
	in     chan []byte
	once   sync.Once
	closed chan struct{}
	code   wire.CloseCode
	// released: CloseNow was called, which frees what a websocket holds.
	released atomic.Bool
}

func newConn() *conn { return &conn{in: make(chan []byte), closed: make(chan struct{})} }

func (c *conn) Read() ([]byte, error) {
	select {
	case b := <-c.in:
		return b, nil
	case <-c.closed:
		return nil, errors.New("closed")
	}
}
func (c *conn) Write([]byte) error { return nil }

func (c *conn) Close(code wire.CloseCode, _ string) {
	c.once.Do(func() { c.code = code; close(c.closed) })
}

func (c *conn) CloseNow() {
	c.released.Store(true)
	c.Close(0, "")
}

func clock() liveness.Reading { return liveness.Reading{Boot: time.Hour} }

func TestLine(t *testing.T) {
	l, c := NewLine(clock), newConn()
	l.Dial(t.Context(), 7, func(context.Context) (Conn, error) { return c, nil })
	opened := <-l.Events()
	if opened.Number != 7 || opened.Opened == nil || opened.At.Boot != time.Hour {
		t.Fatalf("%+v", opened)
	}
	l.Take(opened.Opened)
	b, err := (&agentv1.ServerMessage{Re: 3, Body: &agentv1.ServerMessage_Pong{Pong: &agentv1.Pong{}}}).MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	c.in <- b
	if came := <-l.Events(); came.Number != 7 || came.Message.GetRe() != 3 || came.Message.GetPong() == nil {
		t.Fatalf("%+v", came)
	}
	c.in <- []byte{0xff}
	if came := <-l.Events(); !errors.Is(came.Err, ErrMalformed) || c.code != wire.CloseInvalidPayload {
		t.Fatalf("nonsense: %v, closed with %d", came.Err, c.code)
	}
	l.End(0, "")
	l.Wait()
}

// Whenever it is ended, nothing goes on, and no websocket is left open.
func TestLineEnds(t *testing.T) {
	for name, until := range map[string]func(l *Line, c *conn, dialled chan struct{}){
		"while it dials":               func(*Line, *conn, chan struct{}) {},
		"when nobody took what it has": func(_ *Line, _ *conn, dialled chan struct{}) { close(dialled) },
		"while it reads":               func(l *Line, _ *conn, dialled chan struct{}) { close(dialled); l.Take((<-l.Events()).Opened) },
		"when nobody took what it read": func(l *Line, c *conn, dialled chan struct{}) {
			close(dialled)
			l.Take((<-l.Events()).Opened)
			c.in <- nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			l, c, dialled := NewLine(clock), newConn(), make(chan struct{})
			l.Dial(t.Context(), 1, func(ctx context.Context) (Conn, error) {
				select {
				case <-dialled:
					return c, nil
				case <-ctx.Done():
					c.CloseNow()
					return nil, ctx.Err()
				}
			})
			until(l, c, dialled)
			l.End(wire.CloseNormal, "")
			l.Wait()
			if !c.released.Load() {
				t.Error("the websocket was not released")
			}
			l.End(wire.CloseNormal, "") // again is nothing
		})
	}
}

// What else the caller waits for ends as soon as there is a websocket, whichever comes first.
func TestYield(t *testing.T) {
	for _, first := range []string{"the wait", "the websocket"} {
		l, c, release := NewLine(clock), newConn(), make(chan struct{})
		l.Dial(t.Context(), 1, func(context.Context) (Conn, error) { <-release; return c, nil })
		if first == "the websocket" {
			close(release)
			tick := time.NewTicker(time.Millisecond)
			for !l.open.Load() {
				<-tick.C
			}
			tick.Stop()
		}
		ctx, done := l.Yield(t.Context())
		if first == "the wait" {
			if ctx.Err() != nil {
				t.Error("yields to nothing")
			}
			close(release)
		}
		<-ctx.Done()
		done()
		l.Take((<-l.Events()).Opened)
		ctx, done = l.Yield(t.Context())
		if ctx.Err() != nil {
			t.Error("yields to a websocket that is taken up")
		}
		done()
		l.End(wire.CloseNormal, "")
		l.Wait()
		if c.code != wire.CloseNormal {
			t.Errorf("closed with %d", c.code)
		}
	}
}
