package listen

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/rollcall-dev/rollcall/internal/wire"
)

const (
	readerBytes = 4 << 10
	// maxDiscard is how much of a body that nobody wanted is read, to keep the connection.
	maxDiscard = 64 << 10
	// lingerBytes and lingerTime bound what is read of a client that is being turned away, so that it gets to read the answer: closing a
	// socket that has unread data resets it, and the answer is lost.
	lingerBytes = 1 << 20
	lingerTime  = time.Second
)

var errHeaderBytes = errors.New("the header block is too large")

var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, readerBytes) }}

// Peer is the other end of a connection.
type Peer struct {
	// Address without port, as it is seen here.
	Address netip.Addr
	conn    *conn
}

// Vouch says that the connection belongs to key, whom the caller has authenticated. Until then it is a stranger's, one of few.
func (p *Peer) Vouch(key string) {
	c := p.conn
	if c.vouched {
		return
	}
	c.vouched = true
	c.leave()
	c.leave = c.server.known.enter(key, c.raw.silent, c.abort).leave
}

// Hand lets step have the connection that the handler has hijacked (http.Hijacker). step is called when the handler has returned, and again
// until it returns false: to wait for one message and answer it. Then the connection is closed; it is closed when the handler returns if that
// has handed it to nobody. Long waits are had in a fresh goroutine, so that neither the request nor a stack that grew with a message is kept: half
// of a goroutine that has served one is stack that it does not need to wait.
//
// A connection that was handed over has no deadline, and no reader of this package. It keeps its place among those that were vouched for, and
// loses it to nobody because it is silent. Shutdown waits for step as for a request under way, and then ends the connection.
func (p *Peer) Hand(step func() (more bool)) { p.conn.step = step }

// stream is what a conn needs of a *tls.Conn.
type stream interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// conn is one connection after its handshake. But for abort, everything runs in its one goroutine, which owns no buffer while it waits.
type conn struct {
	server  *Server
	raw     *rawConn
	stream  stream
	peer    Peer
	handler http.Handler
	leave   func() bool
	vouched bool
	step    func() bool // has the connection after its handler; see Hand
	busy    atomic.Bool // a request is under way

	first  byte // read ahead while idle
	ahead  bool
	budget int // bytes that may be read for this header block; negative: no bound
	taken  int // bytes read since the header block began
	failed error
}

// abort ends the connection from outside.
func (c *conn) abort() { _ = c.raw.Close() } // it is over either way

func (c *conn) close() {
	if c.leave != nil {
		c.leave()
	}
	c.server.forget(c)
	_ = c.stream.Close() // likewise
}

// Read is for the bufio.Reader.
func (c *conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if c.budget == 0 {
		return 0, errHeaderBytes
	}
	if c.budget > 0 {
		p = p[:min(len(p), c.budget)]
	}
	n, err := 0, error(nil)
	if c.ahead {
		p[0], c.ahead, n = c.first, false, 1
	} else {
		n, err = c.stream.Read(p)
	}
	c.taken += n
	if err != nil {
		c.failed = err // a line that is cut off by it is reported as a line
	}
	if c.budget > 0 {
		c.budget -= n
	}
	return n, err
}

// serve answers requests until the connection is to end, or is handed over.
func (c *conn) serve() {
	if !c.answerAll() {
		c.close()
		return
	}
	c.handler = nil
	c.server.running.Add(1)
	go c.own(true)
}

// brisk is a step that did not wait for long. The next is taken in the same goroutine, because a fresh one costs a third of what a short message
// does in all.
const brisk = time.Second

// own calls step, and lets another goroutine go on after the first time and after a long wait.
func (c *conn) own(first bool) {
	passedOn := false
	defer func() {
		if !passedOn {
			c.close()
		}
		c.server.running.Done()
	}()
	defer c.survive("A session could not go on.", func() {})
	for {
		began := time.Now()
		if !c.step() {
			return
		}
		if first || time.Since(began) > brisk {
			passedOn = true
			c.server.running.Add(1)
			go c.own(false)
			return
		}
	}
}

// answerAll answers requests, and tells whether the connection is another's now.
func (c *conn) answerAll() (handed bool) {
	var in *bufio.Reader
	defer func() {
		if in != nil {
			release(in)
		}
	}()
	for fresh := true; ; fresh = false {
		if in == nil {
			if !c.await(fresh) {
				return false
			}
			in, _ = readers.Get().(*bufio.Reader) // the pool holds nothing else
			in.Reset(c)
		} else if c.server.draining.Load() {
			return false
		}
		c.busy.Store(true)
		if !fresh { // the deadline of the first header block is that of the handshake
			c.deadline(c.server.config.HandshakeTimeout)
		}
		keep, hijacked := c.exchange(in)
		if hijacked {
			in = nil // it may be in use
			return c.step != nil
		}
		c.busy.Store(false)
		if !keep {
			return false
		}
		if in.Buffered() == 0 {
			release(in)
			in = nil
		}
	}
}

func release(in *bufio.Reader) {
	in.Reset(nil)
	readers.Put(in)
}

// await waits for a request's first byte, with no more memory than that.
func (c *conn) await(fresh bool) bool {
	if !fresh {
		c.deadline(c.server.config.IdleTimeout)
	}
	if c.server.draining.Load() {
		return false
	}
	var one [1]byte
	n, err := c.stream.Read(one[:])
	if n == 0 || err != nil {
		return false
	}
	c.first, c.ahead = one[0], true
	return true
}

func (c *conn) deadline(d time.Duration) { _ = c.raw.SetReadDeadline(time.Now().Add(d)) } // fails on a closed connection only

func (c *conn) writeDeadline() {
	_ = c.raw.SetWriteDeadline(time.Now().Add(c.server.config.WriteTimeout)) // likewise
}

// exchange reads one request and answers it. It tells whether another may follow, and whether the connection was hijacked instead.
func (c *conn) exchange(in *bufio.Reader) (keep, hijacked bool) {
	r, problem := c.readRequest(in)
	w := newResponse(r)
	w.conn, w.in = c, in
	defer w.release()
	if problem != nil {
		problem.Write(w)
		_ = w.send(c, false) // turned away; if it is gone, the better
		c.linger()
		return false, false
	}
	body := &body{conn: c, reader: r.Body, left: r.ContentLength, expect: r.ProtoAtLeast(1, 1) && r.Header.Get("Expect") == "100-continue"}
	r.Body = body
	c.deadline(c.server.config.BodyTimeout)
	survived := c.call(w, r.WithContext(c.server.ctx))
	if w.hijacked {
		if !survived {
			c.step = nil
		}
		return false, true
	}

	clean := body.left == 0 || body.left <= maxDiscard && !body.expect // the next request's first byte can be found
	keep = survived && clean && !r.Close && r.ProtoAtLeast(1, 1) && !c.server.draining.Load() && w.header.Get("Connection") != "close"
	if err := w.send(c, keep); err != nil {
		return false, false
	}
	if body.left != 0 && keep {
		_, err := io.CopyN(io.Discard, body, body.left)
		return err == nil, false
	}
	if body.left != 0 {
		c.linger()
	}
	return keep, false
}

// readRequest reads a header block of at most wire.MaxHeaderBytes.
func (c *conn) readRequest(in *bufio.Reader) (*http.Request, *wire.Problem) {
	held := in.Buffered()
	c.taken, c.budget = 0, max(wire.MaxHeaderBytes-held, 0)+readerBytes // what is read ahead of a body is no header
	r, err := http.ReadRequest(in)
	exhausted := c.budget == 0
	c.budget = -1
	size := held + c.taken - in.Buffered()
	switch {
	case exhausted && err != nil, size > wire.MaxHeaderBytes:
		return nil, &wire.Problem{Name: wire.PayloadTooLarge, Detail: fmt.Sprintf("The header block may have %d bytes at most.", wire.MaxHeaderBytes)}
	case err != nil && errors.Is(c.failed, os.ErrDeadlineExceeded):
		return nil, &wire.Problem{Name: wire.MessageTimeout, Detail: "The header block did not arrive in time."}
	case err != nil, !validHeader(r.Header):
		return nil, &wire.Problem{Name: wire.Malformed, Detail: "This is no HTTP/1.1 request that can be understood."}
	case r.ProtoMajor != 1:
		return nil, &wire.Problem{Name: wire.Malformed, Detail: "Use HTTP/1.1.", Supported: []string{"HTTP/1.1"}}
	case len(r.TransferEncoding) > 0: // with or without a Content-Length: where such a request ends is what smugglers make two sides disagree on
		return nil, &wire.Problem{Name: wire.LengthRequired, Detail: "Send the body with Content-Length; Transfer-Encoding is not accepted."}
	}
	return r, nil
}

// validHeader checks what ReadRequest leaves to net/http's server: names that only look like others, and control characters.
func validHeader(h http.Header) bool {
	for name, values := range h {
		if !httpguts.ValidHeaderFieldName(name) || slices.ContainsFunc(values, func(v string) bool { return !httpguts.ValidHeaderFieldValue(v) }) {
			return false
		}
	}
	return true
}

// call runs the handler. A panic in it is an answer of 500 and the end of this connection, no more.
func (c *conn) call(w *response, r *http.Request) (survived bool) {
	defer c.survive("A request could not be answered.", func() {
		if w.begun { // it stays cut off
			return
		}
		w.clear()
		(&wire.Problem{Name: wire.Internal, Detail: "The gateway failed on this request; its log says more.", RetryAfter: time.Minute}).Write(w)
	}, "path", r.URL.Path)
	c.handler.ServeHTTP(w, r)
	return true
}

// survive is deferred: a panic ends one connection, and not the gateway.
func (c *conn) survive(what string, then func(), keysAndValues ...any) {
	if p := recover(); p != nil {
		c.server.config.Log.Error(fmt.Errorf("panic: %v", p), what, append(keysAndValues, "stack", string(debug.Stack()))...)
		then()
	}
}

// linger lets a client that still sends read the answer before the connection ends.
func (c *conn) linger() {
	_ = c.stream.CloseWrite() // tells the client that the answer is whole
	c.deadline(lingerTime)
	_, _ = io.CopyN(io.Discard, c.raw.Conn, lingerBytes) // ends at the deadline; what comes is of no interest
}

// body is a request's body that knows how much of it is left, and asks for it first where the client waits to be asked.
type body struct {
	conn   *conn
	reader io.ReadCloser
	left   int64
	expect bool
}

func (b *body) Read(p []byte) (int, error) {
	if b.expect {
		b.expect = false
		b.conn.writeDeadline()
		if _, err := b.conn.stream.Write([]byte("HTTP/1.1 100 Continue\r\n\r\n")); err != nil {
			return 0, err
		}
	}
	n, err := b.reader.Read(p)
	b.left -= int64(n)
	return n, err
}

// Close does nothing: what is left is the connection's business.
func (b *body) Close() error { return nil }
