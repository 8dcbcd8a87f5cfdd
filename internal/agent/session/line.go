package session

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/liveness"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// Conn is an open websocket.
type Conn interface {
	// Read blocks for one message. What it returns is good until the next call.
	Read() ([]byte, error)
	// Write sends one message. It may be called beside Read, and returns within some seconds.
	Write([]byte) error
	// Close ends the websocket with a close frame, CloseNow without one and for good. Both may be called at any time, and more than once.
	Close(code wire.CloseCode, reason string)
	CloseNow()
}

// Event is what has happened to an attempt at a session: it opened, a message came, or it is over.
type Event struct {
	// Number of the attempt.
	Number uint64
	// At is when.
	At      liveness.Reading
	Opened  Conn
	Message *agentv1.ServerMessage
	Err     error
}

// Line is the connection of one session after the other. Its methods are for one goroutine, the one that receives the events.
type Line struct {
	clock   func() liveness.Reading
	events  chan Event // unbuffered: what nobody has taken is still the sender's to close
	running sync.WaitGroup
	cancel  context.CancelFunc
	conn    Conn

	open  atomic.Bool // an attempt has a websocket that nobody has taken yet
	hurry atomic.Pointer[context.CancelFunc]
}

// NewLine makes one. clock must be safe for use by several goroutines.
func NewLine(clock func() liveness.Reading) *Line {
	return &Line{clock: clock, events: make(chan Event)}
}

// Events are to be received, and given to Take.
func (l *Line) Events() <-chan Event { return l.events }

// Dial begins an attempt: dial runs beside the caller, and the events tell what comes of it.
func (l *Line) Dial(ctx context.Context, number uint64, dial func(context.Context) (Conn, error)) {
	ctx, l.cancel = context.WithCancel(ctx)
	l.open.Store(false)
	l.running.Go(func() {
		conn, err := dial(ctx)
		if err != nil {
			l.tell(ctx, Event{Number: number, Err: err})
			return
		}
		l.open.Store(true)
		if cancel := l.hurry.Load(); cancel != nil {
			(*cancel)()
		}
		if !l.tell(ctx, Event{Number: number, Opened: conn}) {
			conn.CloseNow()
			return
		}
		// Reading has a goroutine of its own: this one's stack has grown with the handshake, and would stay so.
		l.running.Go(func() { l.read(ctx, number, conn) })
	})
}

func (l *Line) tell(ctx context.Context, e Event) bool {
	e.At = l.clock()
	select {
	case l.events <- e:
		return true
	case <-ctx.Done():
		return false
	}
}

func (l *Line) read(ctx context.Context, number uint64, conn Conn) {
	defer conn.CloseNow()
	for {
		b, err := conn.Read()
		m := &agentv1.ServerMessage{}
		if err == nil {
			if err = decode(b, m); err != nil {
				conn.Close(wire.CloseInvalidPayload, string(wire.Malformed))
			}
		}
		if err != nil {
			l.tell(ctx, Event{Number: number, Err: err})
			return
		}
		if !l.tell(ctx, Event{Number: number, Message: m}) {
			return
		}
	}
}

// ErrMalformed is wrapped by the error of a session that ended because of what the server sent.
var ErrMalformed = errors.New("the server sent what is no message of the protocol")

func decode(b []byte, m *agentv1.ServerMessage) error {
	if err := wire.Protobuf.Unmarshal(b, m); err != nil {
		return fmt.Errorf("%w: it does not parse", ErrMalformed)
	}
	if err := wire.CheckServerMessage(m); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return nil
}

// Take takes up the websocket that an event brought.
func (l *Line) Take(conn Conn) {
	l.conn = conn
	l.open.Store(false)
}

// Send sends a message on the open websocket.
func (l *Line) Send(m *agentv1.AgentMessage) error {
	b, err := m.MarshalVT()
	if err != nil {
		return fmt.Errorf("encode a message: %w", err)
	}
	return l.conn.Write(b)
}

// End ends the attempt or the websocket under way, with a close frame unless code is 0. There are no events of it any more.
func (l *Line) End(code wire.CloseCode, reason string) {
	if l.cancel == nil {
		return
	}
	l.cancel()
	switch {
	case l.conn == nil:
	case code == 0:
		l.conn.CloseNow()
	default:
		l.conn.Close(code, reason)
	}
	l.cancel, l.conn = nil, nil
	l.open.Store(false)
}

// Wait returns when nothing runs any more, after End.
func (l *Line) Wait() { l.running.Wait() }

// Yield makes a context that is cancelled as soon as a websocket opens: what else the caller waits for must not keep it from its first
// message, for which the server waits for seconds only.
func (l *Line) Yield(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	l.hurry.Store(&cancel)
	if l.open.Load() {
		cancel()
	}
	return ctx, func() {
		l.hurry.Store(nil)
		cancel()
	}
}
