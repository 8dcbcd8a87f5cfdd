// Package relay stands between agents and a gateway, as networks and proxies do, and misbehaves as they do: on demand, and while it runs.
//
//	pass           every byte goes through, TLS untouched
//	block          ends TLS and answers 403 to every websocket upgrade; HTTPS goes on
//	cut=20         ends TLS and cuts each websocket 20 seconds after it came up
//	swallow        ends TLS and swallows the pings that agents send as messages (swallow=pongs: the gateway's answers to them)
//	half-open      forwards nothing any more on the connections that are up, and closes none; new ones work (half-open=all: neither)
//
// To end TLS it presents a certificate of the fleet's server CA, and toward the gateway each agent's own certificate and key, read from the
// agent's state directory: it is for machines where all of these are at hand. Every switch cuts the connections that are up, but for
// half-open, which holds them, and pass after it, which lets go those whose TLS it never ended.
package relay

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/go-logr/logr"
)

// MaxConnections of agents at once; beyond it they are closed at once.
const MaxConnections = 16384

// Config says between whom a relay stands.
type Config struct {
	// Gateway is host:port.
	Gateway string
	// Certificate is presented to agents where TLS ends here. The last of its chain is the server CA, by which the gateway is verified. See Sign.
	Certificate tls.Certificate
	// Agents are patterns (filepath.Glob) of the state directories of agents that dial this relay.
	Agents []string
	Log    logr.Logger
}

// Relay carries connections. Its methods may be called from any goroutine.
type Relay struct {
	config  Config
	roots   *x509.CertPool
	agents  *keyring
	running sync.WaitGroup

	mu       sync.Mutex
	mode     Mode
	links    map[*link]struct{}
	listener net.Listener
	closed   bool
}

// New makes a relay that passes everything through.
func New(c Config) (*Relay, error) {
	if len(c.Certificate.Certificate) < 2 {
		return nil, errors.New("the relay's certificate must come with the server CA's, as Sign makes it")
	}
	ca, err := x509.ParseCertificate(c.Certificate.Certificate[len(c.Certificate.Certificate)-1])
	if err != nil {
		return nil, fmt.Errorf("the server CA's certificate: %w", err)
	}
	r := &Relay{config: c, roots: x509.NewCertPool(), agents: &keyring{patterns: c.Agents}, links: map[*link]struct{}{}}
	r.roots.AddCert(ca)
	return r, nil
}

// Mode is what it does now.
func (r *Relay) Mode() Mode {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mode
}

// Switch changes what it does. When it returns, the connections that the new mode does not bear are cut; to the mode that it is in already,
// nothing happens.
func (r *Relay) Switch(to Mode) {
	r.mu.Lock()
	defer r.mu.Unlock()
	from := r.mode
	if from == to {
		return
	}
	r.mode = to
	held, cut := 0, 0
	for l := range r.links {
		switch {
		case to.does == holds && !l.hole():
			l.hold()
			held++
		case to.does == passes && from.does == holds && l.through():
			l.release()
		default:
			l.close()
			cut++
		}
	}
	r.config.Log.Info("The relay's mode has changed.", "from", from.String(), "to", to.String(), "held", held, "cut", cut)
}

// Serve carries the connections that l accepts, until Close. It owns l.
func (r *Relay) Serve(l net.Listener) error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return l.Close()
	}
	r.listener = l
	r.mu.Unlock()
	for pause := 5 * time.Millisecond; ; {
		c, err := l.Accept()
		switch {
		case err == nil:
			pause = 5 * time.Millisecond
			r.carry(c)
		case errors.Is(err, net.ErrClosed):
			return nil
		default: // out of descriptors, say: there will be some again
			r.config.Log.Error(err, "A connection cannot be accepted; this is tried again.", "after", pause.String())
			<-time.After(pause)
			pause = min(2*pause, time.Second)
		}
	}
}

// carry starts a link, in the mode of this moment.
func (r *Relay) carry(c net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || len(r.links) >= MaxConnections {
		_ = c.Close() // nothing was promised
		return
	}
	l := newLink(r, r.mode)
	l.agent = l.adopt(c)
	r.links[l] = struct{}{}
	r.running.Go(func() {
		defer r.forget(l)
		l.run()
	})
}

func (r *Relay) forget(l *link) {
	l.close()
	r.mu.Lock()
	delete(r.links, l)
	r.mu.Unlock()
}

// Close stops accepting, cuts what is up, and returns when nothing runs any more.
func (r *Relay) Close() {
	r.mu.Lock()
	r.closed = true
	if r.listener != nil {
		_ = r.listener.Close() // nothing is lost with it
	}
	for l := range r.links {
		l.close()
	}
	r.mu.Unlock()
	r.running.Wait()
}
