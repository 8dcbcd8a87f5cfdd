package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/rollcall-dev/rollcall/internal/wire"
	"github.com/rollcall-dev/rollcall/test/bench/drill"
)

// siege is hostile clients at work.
type siege struct {
	cancel context.CancelFunc
	all    sync.WaitGroup
}

func (s *siege) end() {
	s.cancel()
	s.all.Wait()
}

// hostile is a way to do harm with one connection: it lasts until its context ends or the server ends it.
type hostile struct {
	name string
	// share of all attackers, in percent.
	share int
	do    func(ctx context.Context, c net.Conn, s *stranger)
}

// stranger is who attacks: nobody, or an agent that went bad.
type stranger struct {
	address string
	agent   *agent
	number  int
}

// attackers of a port that speaks TLS. Strangers come as often as they are shaken off; the last four have an agent's certificate.
var attackers = []hostile{
	{"half-open: connected and silent", 20, func(ctx context.Context, c net.Conn, _ *stranger) { hold(ctx, c) }},
	{"half a hello, then silent", 10, func(ctx context.Context, c net.Conn, _ *stranger) {
		_, _ = c.Write([]byte("\x16\x03\x01\x01\x00\x01\x00\x00\xfc\x03\x03"))
		hold(ctx, c)
	}},
	{"garbage", 5, func(_ context.Context, c net.Conn, _ *stranger) { _, _ = c.Write(garbage(64 << 10)) }},
	{"slow headers", 15, overTLS(func(ctx context.Context, c *tls.Conn, _ *stranger) {
		drip(ctx, c, "GET /agent/v1/session HTTP/1.1\r\nX-Slow: "+strings.Repeat("x", 4000), 200*time.Millisecond)
	})},
	{"slow bodies", 20, overTLS(func(ctx context.Context, c *tls.Conn, s *stranger) {
		_, _ = fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: g\r\n%s: %s\r\nContent-Type: %s\r\nContent-Length: 16000\r\n\r\n",
			wire.PathEnroll, wire.HeaderAgentVersion, version, wire.Protobuf.ContentType())
		drip(ctx, c, strings.Repeat("x", 16000), 200*time.Millisecond)
	})},
	{"endless headers", 5, overTLS(func(_ context.Context, c *tls.Conn, _ *stranger) {
		line := "X: " + strings.Repeat("x", 1<<12) + "\r\n"
		for _, err := io.WriteString(c, "GET / HTTP/1.1\r\n"); err == nil; _, err = io.WriteString(c, line) {
		}
	})},
	{"answers that nobody reads", 5, overTLS(func(ctx context.Context, c *tls.Conn, _ *stranger) {
		for err := error(nil); err == nil && ctx.Err() == nil; {
			_, err = io.WriteString(c, "GET /agent/v1/trust?after=0 HTTP/1.1\r\nHost: g\r\nRollcall-Agent-Version: 8.0.0\r\n\r\n")
		}
	})},
	{"a session, then silent", 5, inSession(func(ctx context.Context, ws *ws) { hold(ctx, ws.conn) })},
	{"a session, then garbage", 5, inSession(func(_ context.Context, ws *ws) { _, _ = ws.conn.Write(garbage(4 << 10)) })},
	{"a session, then half a message by the byte", 5, inSession(func(ctx context.Context, ws *ws) {
		drip(ctx, ws.conn, string(appendFrame(nil, opBinary, garbage(32<<10))), 100*time.Millisecond)
	})},
	{"a session of pings that nobody reads the answers of", 5, inSession(func(ctx context.Context, ws *ws) {
		ping := appendFrame(nil, opPing, make([]byte, 125))
		for err := error(nil); err == nil && ctx.Err() == nil; _, err = ws.conn.Write(ping) {
		}
	})},
}

// besiege starts Count attackers, who go on until end.
func besiege(o drill.Order, agents []*agent) *siege {
	ctx, cancel := context.WithCancel(context.Background())
	s := &siege{cancel: cancel}
	n := 0
	for _, h := range attackers {
		for range o.Count * h.share / 100 {
			who := &stranger{address: o.Address, number: n, agent: agents[n%len(agents)]}
			s.all.Go(func() {
				for wait(ctx, rand.N(time.Second)); ctx.Err() == nil; wait(ctx, 500*time.Millisecond+rand.N(time.Second)) {
					h.once(ctx, who)
				}
			})
			n++
		}
	}
	return s
}

func (h hostile) once(ctx context.Context, who *stranger) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 2, byte(1+who.number%50))}, Timeout: time.Second}
	c, err := d.DialContext(ctx, "tcp", who.address)
	if err != nil {
		return
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(15 * time.Second))
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	h.do(ctx, c, who)
}

func overTLS(do func(context.Context, *tls.Conn, *stranger)) func(context.Context, net.Conn, *stranger) {
	return func(ctx context.Context, raw net.Conn, who *stranger) {
		c := tls.Client(raw, &tls.Config{MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS12, InsecureSkipVerify: true})
		if c.HandshakeContext(ctx) == nil {
			do(ctx, c, who)
		}
	}
}

func inSession(do func(context.Context, *ws)) func(context.Context, net.Conn, *stranger) {
	return func(ctx context.Context, raw net.Conn, who *stranger) {
		c := tls.Client(raw, &tls.Config{
			MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS12, InsecureSkipVerify: true, Certificates: []tls.Certificate{who.agent.certificate},
		})
		if c.HandshakeContext(ctx) != nil {
			return
		}
		ws, err := upgrade(c, who.address, wire.PathSession, http.Header{"Sec-Websocket-Protocol": {wire.Subprotocol}, wire.HeaderAgentVersion: {version}})
		if err == nil {
			do(ctx, ws)
		}
	}
}

// hold keeps a connection without a word.
func hold(ctx context.Context, c net.Conn) {
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	_, _ = io.Copy(io.Discard, c)
}

// drip writes s a byte at a time.
func drip(ctx context.Context, c io.Writer, s string, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for i := range len(s) {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if _, err := c.Write([]byte{s[i]}); err != nil {
				return
			}
		}
	}
}

func garbage(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
