package relay

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// dialTimeout is for the gateway to accept, and for each of the two handshakes.
const dialTimeout = 10 * time.Second

// link is one connection of an agent and what becomes of it. Everything ends when it is closed.
type link struct {
	relay *Relay
	mode  Mode // of the moment when it began
	agent *heldConn

	mu    sync.Mutex
	conns []net.Conn
	over  bool
	done  chan struct{} // closed with it
	held  chan struct{} // closed when it is released; nil: it is not held
}

func newLink(r *Relay, m Mode) *link { return &link{relay: r, mode: m, done: make(chan struct{})} }

// through tells whether agent and gateway speak TLS with each other.
func (l *link) through() bool { return !l.mode.endsTLS() && !l.hole() }

// hole tells whether it leads nowhere.
func (l *link) hole() bool { return l.mode.does == holds && l.mode.wide }

func (l *link) run() {
	var err error
	switch {
	case l.hole():
		_, err = io.Copy(io.Discard, l.agent)
	case l.through():
		err = l.pass()
	default:
		err = l.end()
	}
	if err != nil && !l.isOver() {
		l.relay.config.Log.Info("A connection ended.", "mode", l.mode.String(), "agent", l.agent.RemoteAddr().String(), "reason", err.Error())
	}
}

// pass carries bytes both ways until both ways have ended, or one has failed.
func (l *link) pass() error {
	gateway, err := l.dial()
	if err != nil {
		return err
	}
	back := make(chan error, 1)
	go func() { back <- l.pump(l.agent, gateway) }()
	err = l.pump(gateway, l.agent)
	if backErr := <-back; err == nil {
		err = backErr
	}
	return err
}

// pump carries one way, and its end.
func (l *link) pump(to, from *heldConn) error {
	// Not io.Copy: that would splice from socket to socket, past the place where a held link stops.
	_, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, 16<<10))
	if err != nil {
		l.close()
		return err
	}
	to.closeWrite()
	return nil
}

func (l *link) dial() (*heldConn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	go func() {
		select {
		case <-l.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", l.relay.config.Gateway)
	if err != nil {
		return nil, fmt.Errorf("reach the gateway: %w", err)
	}
	return l.adopt(c), nil
}

// adopt makes a connection a part of the link.
func (l *link) adopt(c net.Conn) *heldConn {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		_ = c.Close()
	}
	l.conns = append(l.conns, c)
	return &heldConn{Conn: c, link: l}
}

// close ends the link at once.
func (l *link) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return
	}
	l.over = true
	close(l.done)
	for _, c := range l.conns {
		_ = c.Close() // it is over either way
	}
}

func (l *link) isOver() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.over
}

// hold stops it without closing anything.
func (l *link) hold() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held == nil {
		l.held = make(chan struct{})
	}
}

// release lets it go on, with what was under way.
func (l *link) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held != nil {
		close(l.held)
		l.held = nil
	}
}

// wait returns when the link is not held, or over.
func (l *link) wait() {
	l.mu.Lock()
	held := l.held
	l.mu.Unlock()
	if held == nil {
		return
	}
	select {
	case <-held:
	case <-l.done:
	}
}

// heldConn is a connection that stops while its link is held: what was read is not handed on, so that nothing is written to the other side.
type heldConn struct {
	net.Conn
	link *link
}

func (c *heldConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.link.wait()
	return n, err
}

func (c *heldConn) closeWrite() {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		_ = tcp.CloseWrite() // fails where the other side was faster
	}
}
