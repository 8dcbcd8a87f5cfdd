package relay

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
)

// maxHeaderBytes of a request or an answer.
const maxHeaderBytes = 64 << 10

// end ends TLS on both sides and relays what is spoken above it.
func (l *link) end() error {
	agent := tls.Server(l.agent, protocol(&tls.Config{
		Certificates: []tls.Certificate{l.relay.config.Certificate}, ClientAuth: tls.RequestClientCert, SessionTicketsDisabled: true,
	}))
	if err := handshake(agent); err != nil {
		return fmt.Errorf("handshake with the agent: %w", err)
	}
	from := newReader(agent)
	gateway, err := l.gatewayAs(agent.ConnectionState())
	if err != nil {
		return errors.Join(err, l.refuse(agent, from, http.StatusBadGateway))
	}
	return l.exchanges(agent, gateway, from, newReader(gateway))
}

// gatewayAs connects to the gateway with what the agent has shown, and has not: some requests need no certificate.
func (l *link) gatewayAs(agent tls.ConnectionState) (*tls.Conn, error) {
	host, _, err := net.SplitHostPort(l.relay.config.Gateway)
	if err != nil {
		return nil, err
	}
	config := protocol(&tls.Config{RootCAs: l.relay.roots, ServerName: host})
	if len(agent.PeerCertificates) > 0 {
		certificate, err := l.relay.agents.find(agent.PeerCertificates[0].Raw)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{certificate}
	}
	c, err := l.dial()
	if err != nil {
		return nil, err
	}
	gateway := tls.Client(c, config)
	if err := handshake(gateway); err != nil {
		return nil, fmt.Errorf("handshake with the gateway: %w", err)
	}
	return gateway, nil
}

// protocol is TLS as the agents' port has it.
func protocol(c *tls.Config) *tls.Config {
	c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	c.CipherSuites = []uint16{
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	}
	c.CurvePreferences = []tls.CurveID{tls.X25519, tls.CurveP256}
	c.NextProtos = []string{"http/1.1"}
	return c
}

func handshake(c *tls.Conn) error {
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	return c.HandshakeContext(ctx)
}

// exchanges relays one request after another, until one of them makes a websocket of the connection, or either side ends it.
func (l *link) exchanges(agent, gateway *tls.Conn, fromAgent, fromGateway *reader) error {
	var ready chan error // tells when the gateway's next answer begins, or that there will be none
	defer func() {
		if ready != nil {
			l.close()
			<-ready
		}
	}()
	for {
		if ready == nil {
			ready = l.await(fromGateway)
		}
		req, err := fromAgent.request()
		if err != nil {
			return unlessEOF(err)
		}
		upgrade := isUpgrade(req)
		if upgrade && l.mode.does == blocks {
			l.relay.config.Log.Info("A websocket was refused.", "agent", l.agent.RemoteAddr().String())
			if err := answer(agent, req, http.StatusForbidden); err != nil {
				return err
			}
			continue
		}
		if req.Header.Get("Expect") != "" { // the gateway says the same: what it refuses, it refuses with the body on its way
			req.Header.Del("Expect")
			if _, err := io.WriteString(agent, "HTTP/1.1 100 Continue\r\n\r\n"); err != nil {
				return err
			}
		}
		sent := req.Write(gateway) // if the gateway did not want all of it, it says why
		err = <-ready
		ready = nil
		if err != nil {
			return errors.Join(sent, unlessEOF(err))
		}
		resp, err := fromGateway.response(req)
		if err != nil {
			return err
		}
		err = resp.Write(agent)
		_ = resp.Body.Close() // read to its end, or the connection is over
		switch {
		case err != nil || sent != nil || resp.Close || req.Close:
			return errors.Join(err, sent)
		case upgrade && resp.StatusCode == http.StatusSwitchingProtocols:
			return l.websocket(agent, gateway, fromAgent, fromGateway)
		}
	}
}

// await waits for a first byte of the gateway. If there is none, the link ends, though the agent may be silent.
func (l *link) await(from *reader) chan error {
	ready := make(chan error, 1)
	go func() {
		_, err := from.Peek(1)
		if err != nil {
			l.close()
		}
		ready <- err
	}()
	return ready
}

// websocket relays messages until either side ends, or the mode says so.
func (l *link) websocket(agent, gateway *tls.Conn, fromAgent, fromGateway *reader) error {
	up, down := keepAll, keepAll
	switch {
	case l.mode.does == cuts:
		timer := time.AfterFunc(l.mode.after, func() {
			l.wait() // half-open closes nothing
			l.relay.config.Log.Info("A websocket was cut.", "agent", l.agent.RemoteAddr().String())
			l.close()
		})
		defer timer.Stop()
	case l.mode.does == swallows && l.mode.wide:
		down = l.logged(isPong)
	case l.mode.does == swallows:
		up = l.logged(isPing)
	}
	back := make(chan error, 1)
	go func() {
		err := copyMessages(agent, fromGateway.Reader, down)
		l.close()
		back <- err
	}()
	err := copyMessages(gateway, fromAgent.Reader, up)
	l.close()
	<-back // it ended because the other did, or the other way round
	return unlessEOF(err)
}

// logged is a filter that says what it has swallowed.
func (l *link) logged(drop filter) filter {
	return func(text bool, message []byte) bool {
		if !drop(text, message) {
			return false
		}
		l.relay.config.Log.Info("A message was swallowed.", "mode", l.mode.String(), "agent", l.agent.RemoteAddr().String())
		return true
	}
}

// refuse answers the next request itself.
func (l *link) refuse(agent *tls.Conn, from *reader, status int) error {
	req, err := from.request()
	if err != nil {
		return unlessEOF(err)
	}
	req.Close = true
	return answer(agent, req, status)
}

// answer is what a proxy says: a page for people, of no use to a program.
func answer(w io.Writer, to *http.Request, status int) error {
	page := fmt.Sprintf("<html><head><title>%d %[2]s</title></head><body><h1>%[2]s</h1></body></html>\n", status, http.StatusText(status))
	resp := &http.Response{
		StatusCode: status, ProtoMajor: 1, ProtoMinor: 1, Request: to, Close: to.Close,
		Header:        http.Header{"Content-Type": {"text/html"}},
		ContentLength: int64(len(page)), Body: io.NopCloser(strings.NewReader(page)),
	}
	return resp.Write(w)
}

func isUpgrade(r *http.Request) bool {
	return httpguts.HeaderValuesContainsToken(r.Header["Upgrade"], "websocket")
}

func unlessEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// reader reads HTTP of one side, with a bound on header blocks.
type reader struct {
	*bufio.Reader
	limit *io.LimitedReader
}

func newReader(c io.Reader) *reader {
	limit := &io.LimitedReader{R: c, N: math.MaxInt64}
	return &reader{Reader: bufio.NewReader(limit), limit: limit}
}

func (r *reader) request() (*http.Request, error) {
	r.limit.N = maxHeaderBytes
	defer func() { r.limit.N = math.MaxInt64 }()
	return http.ReadRequest(r.Reader)
}

func (r *reader) response(to *http.Request) (*http.Response, error) {
	r.limit.N = maxHeaderBytes
	defer func() { r.limit.N = math.MaxInt64 }()
	return http.ReadResponse(r.Reader, to)
}
