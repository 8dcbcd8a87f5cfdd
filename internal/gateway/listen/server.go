// Package listen is the gateway's door on the network: it accepts connections, ends TLS, reads HTTP/1.1 requests and writes the answers.
//
// It is not net/http's server, because that one keeps 10 KB more for each connection, has no bound on handshakes under way, adds HTTP/2 by
// itself, and refuses no client in favour of another. Parsing is net/http's (ReadRequest), TLS is crypto/tls's; what is here is the accept
// loop, deadlines, bounds, and an answer that is written in one piece.
package listen

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"

	"github.com/rollcall-dev/rollcall/internal/gateway/limit"
)

// Result of a handshake, for the metric.
type Result string

// Results of handshakes.
const (
	Completed Result = "completed"
	Resumed   Result = "resumed"
	Failed    Result = "failed"    // the client offered nothing acceptable, spoke no TLS, or went away
	TimedOut  Result = "timeout"   // no handshake within HandshakeTimeout
	Displaced Result = "displaced" // its place was given to a newcomer: too many were under way
)

// Config of a Server. Zero durations and counts mean the defaults.
type Config struct {
	// Certificate is what the server shows; an error ends the handshake.
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// Welcome is called after each handshake and says who serves the connection's requests, one at a time. It must not keep state: the
	// certificates in it are let go when Welcome returns. The context of each request ends when the server begins to drain.
	Welcome func(state *tls.ConnectionState, peer *Peer) http.Handler
	// Handshake is told how each handshake went; nil: nobody is.
	Handshake func(Result)
	Log       logr.Logger

	// MaxHandshakes is how many handshakes are under way at most (default 256), MaxStrangers how many connections nobody vouched for
	// (default 512), MaxConnections how many somebody did (default 16384).
	MaxHandshakes, MaxStrangers, MaxConnections int
	// HandshakeTimeout is for a handshake and the first header block together, and for each later header block (default 5 s).
	HandshakeTimeout time.Duration
	// BodyTimeout is for a request's body (default 30 s), WriteTimeout for an answer (default 10 s).
	BodyTimeout, WriteTimeout time.Duration
	// IdleTimeout is how long a connection is kept without a request (default 90 s).
	IdleTimeout time.Duration
}

func (c Config) withDefaults() Config {
	count := func(n *int, otherwise int) {
		if *n <= 0 {
			*n = otherwise
		}
	}
	span := func(d *time.Duration, otherwise time.Duration) {
		if *d <= 0 {
			*d = otherwise
		}
	}
	count(&c.MaxHandshakes, 256)
	count(&c.MaxStrangers, 512)
	count(&c.MaxConnections, 16384)
	span(&c.HandshakeTimeout, 5*time.Second)
	span(&c.BodyTimeout, 30*time.Second)
	span(&c.WriteTimeout, 10*time.Second)
	span(&c.IdleTimeout, 90*time.Second)
	if c.Handshake == nil {
		c.Handshake = func(Result) {}
	}
	return c
}

// maxOfOne is how many connections one agent may have: many more than it needs, and too few to fill anybody's memory with.
const maxOfOne = 16

// Server serves agents. It is used once: Serve, then Shutdown.
type Server struct {
	config Config
	tls    *tls.Config
	keys   ticketKeys

	handshakes *pool[netip.Addr]
	strangers  *pool[netip.Addr]
	known      *pool[string]

	ctx    context.Context //nolint:containedctx // the context of every request: it ends when the server drains
	cancel context.CancelFunc

	mu       sync.Mutex
	listener net.Listener
	conns    map[*conn]struct{}
	running  sync.WaitGroup
	draining atomic.Bool
}

// New makes a server.
func New(config Config) *Server {
	config = config.withDefaults()
	s := &Server{
		config:     config,
		tls:        newTLSConfig(config.Certificate),
		handshakes: newPool[netip.Addr](config.MaxHandshakes, config.MaxHandshakes),
		strangers:  newPool[netip.Addr](config.MaxStrangers, config.MaxStrangers),
		known:      newPool[string](config.MaxConnections, maxOfOne).settle(),
		conns:      map[*conn]struct{}{},
	}
	s.keys.rotate(s.tls)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Count is how many connections there are now: in their handshake, not vouched for, and vouched for.
func (s *Server) Count() (handshakes, strangers, known int) {
	return s.handshakes.count(), s.strangers.count(), s.known.count()
}

// Serve accepts connections until Shutdown, and then returns nil.
func (s *Server) Serve(l net.Listener) error {
	s.mu.Lock()
	if s.draining.Load() { // Shutdown came first
		s.mu.Unlock()
		return l.Close()
	}
	s.listener = l
	s.running.Go(func() { s.keys.run(s.ctx, s.tls) })
	s.mu.Unlock()
	var pause time.Duration
	for {
		raw, err := l.Accept()
		switch {
		case err == nil:
			pause = 0
			s.greet(raw)
		case s.draining.Load():
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		default: // out of descriptors, say: there will be some again
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			s.config.Log.Error(err, "A connection cannot be accepted; this is tried again.", "after", pause.String())
			select {
			case <-time.After(pause):
			case <-s.ctx.Done():
			}
		}
	}
}

// greet gives a new connection a place and lets its handshake run.
func (s *Server) greet(raw net.Conn) {
	addr := source(raw.RemoteAddr())
	limited := &rawConn{Conn: raw, left: maxHandshakeBytes}
	encrypted := tls.Server(limited, s.tls)
	c := &conn{server: s, raw: limited, stream: encrypted}
	c.peer = Peer{Address: addr, conn: c}
	_ = raw.SetDeadline(time.Now().Add(s.config.HandshakeTimeout)) // fails only on a closed connection, which the handshake finds out
	if !s.track(c) {
		_ = raw.Close()
		return
	}
	at := s.handshakes.enter(limit.Client(addr), c.raw.silent, c.abort)
	go func() {
		defer s.running.Done() // track added it
		s.handshake(c, encrypted, at)
	}()
}

func (s *Server) handshake(c *conn, encrypted *tls.Conn, at *place[netip.Addr]) {
	err := encrypted.HandshakeContext(context.Background()) // Shutdown and the deadline end it by closing the connection
	held := at.leave()
	if err != nil {
		s.config.Handshake(failure(err, held))
		if looksLikeHTTP(err) {
			_, _ = c.raw.Write([]byte("HTTP/1.0 400 Bad Request\r\nConnection: close\r\n\r\nThis port speaks TLS 1.2 only: use https.\n"))
		}
		c.close()
		return
	}
	c.raw.left = -1
	state := encrypted.ConnectionState()
	if state.DidResume {
		s.config.Handshake(Resumed)
	} else {
		s.config.Handshake(Completed)
	}
	c.leave = s.strangers.enter(limit.Client(c.peer.Address), c.raw.silent, c.abort).leave
	c.handler = s.config.Welcome(&state, &c.peer)
	// The elements are the connection's own: without this it keeps the parsed certificate for its life, more than all else together.
	clear(state.PeerCertificates)
	clear(state.VerifiedChains)
	// In a fresh goroutine, because the handshake has grown this one's stack.
	s.running.Go(c.serve)
}

func failure(err error, held bool) Result {
	var timeout net.Error
	switch {
	case !held:
		return Displaced
	case errors.As(err, &timeout) && timeout.Timeout():
		return TimedOut
	default:
		return Failed
	}
}

// Shutdown stops accepting, closes idle connections, and lets requests under way, and connections that were handed over, finish until ctx is
// done; then it ends them. Afterwards nothing runs.
func (s *Server) Shutdown(ctx context.Context) {
	s.mu.Lock()
	s.draining.Store(true)
	s.cancel()
	if s.listener != nil {
		_ = s.listener.Close() // nothing is lost with it
	}
	for c := range s.conns {
		if !c.busy.Load() {
			c.abort()
		}
	}
	s.mu.Unlock()
	stopped := make(chan struct{})
	go func() {
		s.running.Wait()
		close(stopped)
	}()
	select {
	case <-stopped:
		return
	case <-ctx.Done():
	}
	s.mu.Lock()
	for c := range s.conns {
		c.abort()
	}
	s.mu.Unlock()
	<-stopped
}

// track remembers a connection and counts its goroutine, unless the server drains.
func (s *Server) track(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining.Load() {
		return false
	}
	s.conns[c] = struct{}{}
	s.running.Add(1)
	return true
}

func (s *Server) forget(c *conn) {
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
}

// source is the address of a client without its port; the zero address where there is none.
func source(addr net.Addr) netip.Addr {
	if tcp, ok := addr.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}
