package listen

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"net"
	"sync/atomic"
	"time"
)

const (
	// ticketLife is how long a ticket key encrypts; it decrypts for one life more.
	ticketLife = time.Hour
	// maxHandshakeBytes is what a client may send until its handshake is done. A real one sends some 2 KiB; crypto/tls alone would read and
	// parse certificates of 256 KiB from anybody.
	maxHandshakeBytes = 16 << 10
)

// newTLSConfig is TLS 1.2 with ECDHE and AEAD, and nothing else. Client certificates are asked for but judged in HTTP, so that an expired
// or unknown one gets an answer in words; crypto/tls only checks that the client has the key.
func newTLSConfig(certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)) *tls.Config {
	return &tls.Config{ //nolint:gosec // G402: TLS 1.2 and nothing above it is what this port is for
		MinVersion: tls.VersionTLS12,
		MaxVersion: tls.VersionTLS12,
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP256},
		NextProtos:       []string{"http/1.1"},
		ClientAuth:       tls.RequestClientCert,
		GetCertificate:   certificate,
	}
}

// ticketKeys encrypt session tickets. Agents that beat over HTTPS connect anew for each heartbeat, and resuming costs the gateway a third of a
// full handshake. The keys are this process's own, random, never stored, and live two hours: crypto/tls by itself would use one for a week.
type ticketKeys struct{ current, previous [32]byte }

func (k *ticketKeys) rotate(to *tls.Config) {
	k.previous = k.current
	_, _ = rand.Read(k.current[:]) // never fails, see its documentation
	if k.previous == [32]byte{} {
		to.SetSessionTicketKeys([][32]byte{k.current})
		return
	}
	to.SetSessionTicketKeys([][32]byte{k.current, k.previous})
}

// run rotates the keys until ctx is done.
func (k *ticketKeys) run(ctx context.Context, to *tls.Config) {
	tick := time.NewTicker(ticketLife)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			k.rotate(to)
		}
	}
}

var errHandshakeBytes = errors.New("the client sent too much before its handshake was done")

// rawConn is a connection below TLS. It ends when a client sends more than a handshake has, and knows how long it has been silent.
type rawConn struct {
	net.Conn
	left    int          // bytes that may be read; negative: no bound
	waiting atomic.Int64 // since when a Read waits, in nanoseconds from epoch; 0: none does
	handed  atomic.Bool  // somebody else reads, and knows how long to wait
}

var epoch = time.Now()

func (c *rawConn) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, errHandshakeBytes
	}
	if c.left > 0 {
		p = p[:min(len(p), c.left)]
	}
	c.waiting.Store(int64(time.Since(epoch)))
	n, err := c.Conn.Read(p)
	c.waiting.Store(0)
	if c.left > 0 {
		c.left -= n
	}
	return n, err
}

// silent is for how long the client has owed us bytes.
func (c *rawConn) silent() time.Duration {
	if since := c.waiting.Load(); since != 0 && !c.handed.Load() {
		return time.Since(epoch) - time.Duration(since)
	}
	return 0
}

// looksLikeHTTP tells whether a client spoke HTTP to the TLS port: a common mistake that deserves words.
func looksLikeHTTP(err error) bool {
	var header tls.RecordHeaderError
	if !errors.As(err, &header) || header.Conn == nil {
		return false
	}
	switch string(header.RecordHeader[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO", "PATCH":
		return true
	}
	return false
}
