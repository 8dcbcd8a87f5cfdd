package transport

import (
	"bufio"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// writeTimeout is how long a message may take to be written; then the connection is dropped.
	writeTimeout = 10 * time.Second
	// closeTimeout is how long a connection may live after a close frame was sent.
	closeTimeout = time.Second
	// serverRecord is how much of a frame is gathered before it is written: what one TLS record holds.
	serverRecord = 16 << 10
	// clientRecord keeps the TLS records of an agent small: the gateway's end of a connection keeps a buffer of the largest that it ever
	// received, for as long as the connection lives.
	clientRecord = 1 << 10
	// drainBytes bounds what is read of a peer that was told to go: closing a socket that has unread data resets it, and what was said last
	// is lost.
	drainBytes = 1 << 20
)

var (
	epoch   = time.Now()
	records = sync.Pool{New: func() any { return new([serverRecord]byte) }}
)

// guard is the connection as the websocket library has it. What comes in is checked before the library sees it; a frame goes out in one piece
// and by a deadline, and nothing goes out after a close frame. It has no timer and no goroutine.
type guard struct {
	net.Conn                    // the TLS connection, for its deadlines
	stream   io.ReadWriteCloser // the same; on the client what its HTTP library handed over
	raw      net.Conn           // below TLS
	client   bool               // this side is one
	owned    bool               // by a Conn

	// Of the goroutine that reads.
	in      scanner
	library *bufio.Reader // the library's; nil on the client
	ahead   [libraryBuffer]byte
	early   []byte // was read before the library asked: with the upgrade request, or by await
	broken  *violation

	closeBy    atomic.Int64 // since epoch; not 0: a close frame is on its way out, and until then it has to be there
	peerClosed atomic.Bool
	closed     atomic.Bool // a close frame was written

	mu     sync.Mutex
	out    *[serverRecord]byte // what is gathered of the frame under way; nil while nothing is
	have   int
	left   uint64          // bytes of the frame under way that are still to come
	last   bool            // that is a close frame
	parked []byte          // a close frame that waits for its end
	head   [maxHeader]byte // of the frame that say sends
}

func newGuard(conn net.Conn, stream io.ReadWriteCloser, client, text bool, limit uint64) *guard {
	g := &guard{Conn: conn, stream: stream, raw: conn, client: client, in: scanner{masked: !client, kind: opBinary, limit: limit}}
	if text {
		g.in.kind = opText
	}
	if over, ok := conn.(interface{ NetConn() net.Conn }); ok {
		g.raw = over.NetConn()
	}
	return g
}

// await waits for the first bytes of a frame, and keeps them for Read. The library would wait some ten calls deeper, for which a goroutine of a
// gateway needs twice the stack.
func (g *guard) await() error {
	if g.library == nil || g.library.Buffered() > 0 || len(g.early) > 0 || g.broken != nil {
		return nil //nolint:nilerr // Read has it to tell
	}
	n, err := g.stream.Read(g.ahead[:])
	g.early = g.ahead[:n]
	if n > 0 {
		err = nil // it comes again
	}
	return err
}

// Read implements io.Reader for the library.
func (g *guard) Read(p []byte) (n int, err error) {
	switch {
	case g.broken != nil:
		return 0, g.broken
	case len(g.early) > 0:
		n = copy(p, g.early)
		g.early = g.early[n:]
	default:
		g.early = nil
		n, err = g.stream.Read(p)
	}
	n, g.broken = g.in.scan(p[:n], time.Now)
	if g.in.closed {
		g.peerClosed.Store(true)
	}
	switch {
	case g.broken != nil:
		return n, g.broken
	case errors.Is(err, io.EOF):
		return n, io.ErrUnexpectedEOF // the library takes a message that is cut off by EOF for a whole one
	}
	return n, err
}

// single takes the header of a message that comes in one frame, as nearly all do, and gives its payload to be read; nil if the library has to read
// what comes. The library would hand header and payload to another goroutine and back, before and after it reads each.
func (g *guard) single() io.Reader {
	if g.library == nil || g.library.Buffered() > 0 || !g.in.atSingle(g.early) {
		return nil
	}
	head := headerBytes(g.early)
	if _, g.broken = g.in.scan(g.early[:head], time.Now); g.broken != nil {
		return nil // Read has it to tell
	}
	g.early = g.early[head:]
	return (*payload)(g)
}

// payload is that of the frame that single has begun, unmasked.
type payload guard

// Read implements io.Reader.
func (p *payload) Read(b []byte) (int, error) {
	in := &p.in
	if in.have == 0 {
		return 0, io.EOF // the frame has ended
	}
	at, key := in.size-in.left, in.head[in.need-in.maskBytes():in.need]
	n, err := (*guard)(p).Read(b[:min(uint64(len(b)), in.left)])
	for i := range b[:n] {
		b[i] ^= key[(at+uint64(i))%4]
	}
	return n, err
}

// Write implements io.Writer for the library, which writes one frame at a time, in pieces; the first has the whole header.
func (g *guard) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.write(p)
}

// say sends a message of a server in one frame, past the library, for the same reason. It tells whether it could: not in the middle of a frame of
// the library's.
func (g *guard) say(message []byte) (ok bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.client || g.left > 0 {
		return false, nil
	}
	if _, err = g.write(serverHeader(&g.head, g.in.kind, len(message))); err == nil && len(message) > 0 {
		_, err = g.write(message)
	}
	return true, err
}

// write is Write for the holder of the lock.
func (g *guard) write(p []byte) (int, error) {
	if g.closed.Load() { // the library answers a close frame even if that was the answer to ours
		return len(p), nil
	}
	if g.left == 0 {
		g.left, g.last = frameBytes(p), p[0]&0xF == opClose
		g.begin()
	}
	g.left -= min(g.left, uint64(len(p)))
	if err := g.send(p); err != nil {
		return 0, err
	}
	if g.left > 0 {
		return len(p), nil
	}
	if g.last {
		g.closed.Store(true)
	} else if g.parked != nil {
		return len(p), g.sendLast(g.parked)
	}
	return len(p), nil
}

// begin sets the deadline of one frame.
func (g *guard) begin() {
	if g.last {
		g.hurry()
		return
	}
	_ = g.SetWriteDeadline(time.Now().Add(writeTimeout)) // fails on a closed connection only, as everywhere here
	if by := g.closeBy.Load(); by != 0 {                 // hurry came between
		_ = g.SetWriteDeadline(epoch.Add(time.Duration(by)))
	}
}

// hurry shortens every deadline, because the connection is about to be closed.
func (g *guard) hurry() {
	g.closeBy.CompareAndSwap(0, int64(time.Since(epoch)+closeTimeout))
	by := epoch.Add(time.Duration(g.closeBy.Load()))
	_ = g.SetWriteDeadline(by)
	_ = g.SetReadDeadline(by)
}

// sayClose sends a close frame: at once, or after the frame that is being written. It waits until closeBy at most.
func (g *guard) sayClose(frame []byte) error {
	g.hurry()
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.closed.Load():
		return nil
	case g.left > 0:
		g.parked = frame
		return nil
	}
	return g.sendLast(frame)
}

func (g *guard) sendLast(frame []byte) error {
	g.closed.Store(true)
	_, err := g.stream.Write(frame)
	return err
}

// send writes a piece of a frame, in one TLS record as far as it fits into one.
func (g *guard) send(p []byte) error {
	if g.client {
		for len(p) > 0 {
			n, err := g.stream.Write(p[:min(len(p), clientRecord)])
			if err != nil {
				return err
			}
			p = p[n:]
		}
		return nil
	}
	for len(p) > 0 {
		if g.have == 0 && (g.left == 0 || len(p) >= serverRecord) {
			_, err := g.stream.Write(p)
			return err
		}
		if g.out == nil {
			g.out, _ = records.Get().(*[serverRecord]byte) // the pool holds nothing else
		}
		n := copy(g.out[g.have:], p)
		g.have, p = g.have+n, p[n:]
		if g.have == serverRecord || g.left == 0 && len(p) == 0 {
			_, err := g.stream.Write(g.out[:g.have])
			records.Put(g.out)
			g.out, g.have = nil, 0
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// Close implements io.Closer for the library. Once there is a Conn it is the one that closes, with finish: the library would do it while the
// reason is still being said.
func (g *guard) Close() error {
	if !g.owned {
		g.finish()
	}
	return nil
}

// finish closes the connection. TLS says goodbye only after a close handshake: it would wait for a peer that does not read.
func (g *guard) finish() {
	if !g.closed.Load() || !g.peerClosed.Load() {
		g.drop()
	}
	_ = g.stream.Close() // it is over either way
}

// drop ends the connection from whatever goroutine, without waiting.
func (g *guard) drop() { _ = g.raw.Close() } // it is over either way

// drain reads what a peer still sends that was told to go, so that it gets to read why.
func (g *guard) drain() {
	if half, ok := g.Conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // what was said is whole
	}
	_, _ = io.CopyN(io.Discard, g.raw, drainBytes) // ends at the deadline; what comes is of no interest
}
