// Package transport is the websocket of a session, on either side: one connection that gives and takes whole messages of the agreed kind, and
// closes with the codes of the protocol. It knows no message's content. It is the only package that imports the websocket library, which
// assembles messages and answers pings; the guard below it checks frames by RFC 6455, keeps writes to their deadline, and closes.
//
// A connection that waits costs what crypto/tls, the library and one goroutine keep: no buffer, no timer, and no goroutine of this package.
package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"nhooyr.io/websocket"

	"github.com/rollcall-dev/rollcall/internal/wire"
)

const (
	bufferBytes = 4 << 10
	// maxKept is the largest buffer that is kept for another message.
	maxKept = 64 << 10
)

var buffers = sync.Pool{New: func() any {
	b := make([]byte, 0, bufferBytes)
	return &b
}}

// Conn is one websocket. One goroutine reads; everything else may be called by any. Its owner calls CloseNow in the end, whatever came before.
type Conn struct {
	ws    *websocket.Conn
	guard *guard
	kind  websocket.MessageType

	reading sync.Mutex
	message *[]byte // what the last Read returned; nil while none is held
	over    error   // what every further Read returns

	local atomic.Pointer[CloseError] // how this side closed
}

// CloseError is how a session ended. It is the only error of Read.
type CloseError struct {
	// Code and Reason as they were sent by the side that closed. CloseAbnormal: the connection broke off without.
	Code   wire.CloseCode
	Reason string
	// Local tells that this side closed.
	Local bool
	// Err is what this side closed for, or how the connection broke off; it may be nil.
	Err error
}

func (e *CloseError) Error() string {
	var text string
	switch {
	case e.Code == wire.CloseAbnormal && e.Local:
		text = "the session was dropped"
	case e.Code == wire.CloseAbnormal:
		text = "the session broke off"
	case e.Local:
		text = fmt.Sprintf("the session was closed with %d %s", e.Code, e.Reason)
	default:
		text = fmt.Sprintf("the other side closed the session with %d %s", e.Code, wire.CutText(e.Reason, wire.MaxCloseReason))
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

func (e *CloseError) Unwrap() error { return e.Err }

// Problem is what the code and the reason stand for.
func (e *CloseError) Problem() *wire.Problem { return wire.ParseClose(e.Code, e.Reason) }

func newConn(ws *websocket.Conn, g *guard) *Conn {
	g.owned = true
	ws.SetReadLimit(-1) // the guard's is exact, and speaks before the message has come
	c := &Conn{ws: ws, guard: g, kind: websocket.MessageBinary}
	if g.in.kind == opText {
		c.kind = websocket.MessageText
	}
	return c
}

// JSON tells that messages are text, in JSON; else they are binary, in protobuf.
func (c *Conn) JSON() bool { return c.kind == websocket.MessageText }

// Read waits for the next message, which has the agreed kind and at most the bytes that a peer may send; it is good until the next Read. While
// Read waits it holds no buffer. It answers pings, and violations of RFC 6455 with the right close code. Its error is a *CloseError, and the
// connection is then over: released, and every further Read returns the same.
func (c *Conn) Read() ([]byte, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	return c.read()
}

func (c *Conn) read() ([]byte, error) {
	for c.over == nil {
		c.release()
		err := c.next()
		switch {
		case err != nil:
			c.over = c.end(err)
		case c.local.Load() == nil:
			return *c.message, nil
		} // else: what comes after a close is passed over, up to the peer's answer
	}
	c.release()
	return nil, c.over
}

// next reads one message.
func (c *Conn) next() error {
	if err := c.guard.await(); err != nil {
		return err
	}
	r, err := c.guard.single(), error(nil)
	if r == nil {
		if _, r, err = c.ws.Reader(context.Background()); err != nil {
			return err
		}
	}
	c.message, _ = buffers.Get().(*[]byte) // the pool holds nothing else
	b := (*c.message)[:0]
	for err == nil {
		if len(b) == cap(b) {
			b = slices.Grow(b, cap(b)) // as much again as has come, never what was promised
		}
		var n int
		n, err = r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
	}
	*c.message = b
	switch {
	case !errors.Is(err, io.EOF):
		return err
	case c.JSON() && !utf8.Valid(b):
		return &violation{wire.CloseInvalidPayload, errors.New("the text is not UTF-8")}
	}
	return nil
}

func (c *Conn) release() {
	if c.message != nil && cap(*c.message) <= maxKept {
		buffers.Put(c.message)
	}
	c.message = nil
}

// end releases the connection after an error of next, and says how it ended.
func (c *Conn) end(err error) *CloseError {
	defer c.CloseNow()
	var theirs websocket.CloseError
	var broken *violation
	if !errors.As(err, &broken) { // else it is of the message that was read: frames after it may be broken as well
		broken = c.guard.broken
	}
	switch local := c.local.Load(); {
	case local != nil:
		return local
	case broken != nil:
		ours := &CloseError{Code: broken.code, Reason: string(wire.ParseClose(broken.code, "").Name), Local: true, Err: broken.err}
		if !c.local.CompareAndSwap(nil, ours) {
			return c.local.Load()
		}
		if c.guard.sayClose(closeFrame(ours.Code, ours.Reason, c.guard.client)) == nil {
			c.guard.drain()
		}
		return ours
	case errors.As(err, &theirs):
		return &CloseError{Code: wire.CloseCode(theirs.Code), Reason: theirs.Reason} //nolint:gosec // two bytes on the wire
	}
	return &CloseError{Code: wire.CloseAbnormal, Err: err}
}

// Write sends a message. Callers take turns. It waits 10 s at most; then, and on any other error, the connection is dropped. Messages
// after Close are refused with its *CloseError.
func (c *Conn) Write(message []byte) error {
	if local := c.local.Load(); local != nil {
		return local
	}
	said, err := c.guard.say(message)
	if !said {
		err = c.ws.Write(context.Background(), c.kind, message)
	}
	if err == nil {
		return nil
	}
	if local := c.local.Load(); local != nil {
		return local
	}
	c.guard.drop()
	return fmt.Errorf("write to the session: %w", err)
}

// Close says why, and ends the session. The first call counts. A Read that is waiting sees to the rest and returns within a second; when none
// is, Close does it, and takes that second at most.
func (c *Conn) Close(code wire.CloseCode, reason string) {
	if !c.local.CompareAndSwap(nil, &CloseError{Code: code, Reason: reason, Local: true}) {
		return
	}
	if c.guard.sayClose(closeFrame(code, reason, c.guard.client)) != nil {
		c.guard.drop()
	}
	if c.reading.TryLock() {
		defer c.reading.Unlock()
		c.message = nil // whoever reads may still be at it
		_, _ = c.read() // until the peer has answered
	}
}

// CloseNow drops the connection without a word, and releases it. It may be called at any time, and again.
func (c *Conn) CloseNow() {
	c.local.CompareAndSwap(nil, &CloseError{Code: wire.CloseAbnormal, Local: true})
	c.guard.finish()
	_ = c.ws.CloseNow() // what it says is of no use any more
}
