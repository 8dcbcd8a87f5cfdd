// Package client speaks the agent protocol to one server over HTTPS: TLS 1.2 only, believing the fleet's own server CA and nothing else,
// through a CONNECT proxy where there is one. Everything that comes back is bounded and checked; every failure is a *wire.Problem.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/agent/problem"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// Timeouts of one exchange. The gateway holds an enrolment for up to 10 s before it answers 202.
const (
	dialTimeout      = 10 * time.Second
	handshakeTimeout = 10 * time.Second
	exchangeTimeout  = 45 * time.Second
	idleTimeout      = 75 * time.Second // the gateway closes at 90 s: let go first, or a request may meet a closing connection
)

// Server is where to go and how.
type Server struct {
	// URL is https://host:port.
	URL *url.URL
	// Proxy is an HTTP CONNECT proxy, nil for none.
	Proxy *url.URL
	// AgentVersion is told with every request.
	AgentVersion string
}

// Moment is the agent's time at one exchange, for the validity of the server's certificate.
type Moment struct {
	Now time.Time
	// Floor is behind Now for certain; Anchored says that Now is no estimate.
	Floor    time.Time
	Anchored bool
}

// Client is a connection to a verified server, kept open between exchanges. It is for one goroutine.
type Client struct {
	server Server
	http   *http.Client
	time   atomic.Pointer[time.Time]
	// session is the TLS of websockets: the same, and the same cache of TLS sessions, but a time of its own.
	session     *tls.Config
	sessionTime atomic.Pointer[time.Time]
	// download is that of artifacts, likewise.
	download     *tls.Config
	downloadTime atomic.Pointer[time.Time]
	suite        atomic.Uint32
}

// New makes a client that believes roots alone. cert is the agent's, nil before it has one. A new certificate needs a new client: TLS
// would resume the session of the old one.
func New(server Server, roots *x509.CertPool, cert *tls.Certificate) *Client {
	c := &Client{server: server}
	config := tlsConfig(server.URL.Hostname())
	config.RootCAs = roots
	config.Time = func() time.Time { return *c.time.Load() }
	config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	if cert != nil {
		config.Certificates = []tls.Certificate{*cert}
	}
	c.http = &http.Client{Transport: newTransport(server, config), CheckRedirect: noRedirect}
	c.session = config.Clone()
	c.session.Time = func() time.Time { return *c.sessionTime.Load() }
	c.download = config.Clone()
	c.download.Time = func() time.Time { return *c.downloadTime.Load() }
	return c
}

// Close lets the connection go. Another exchange makes a new one.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// CipherSuite of the last connection, "" before the first.
func (c *Client) CipherSuite() string {
	if suite := c.suite.Load(); suite != 0 {
		return tls.CipherSuiteName(uint16(suite)) //nolint:gosec // it was one
	}
	return ""
}

// Accepted is why a certificate did not come yet: the same request is to be repeated.
type Accepted struct{ RetryAfter time.Duration }

func (a *Accepted) Error() string {
	return "the request was accepted, and is not answered yet; ask again in " + a.RetryAfter.String()
}

// Enroll sends the enrolment, the encoded EnrollRequest. It returns the certificate, *Accepted or a *wire.Problem.
func (c *Client) Enroll(ctx context.Context, m Moment, body []byte) ([]byte, error) {
	return c.certificate(ctx, m, wire.PathEnroll, body)
}

// Renew sends the renewal, the encoded RenewRequest, with the same answers as Enroll.
func (c *Client) Renew(ctx context.Context, m Moment, body []byte) ([]byte, error) {
	return c.certificate(ctx, m, wire.PathRenew, body)
}

func (c *Client) certificate(ctx context.Context, m Moment, path string, body []byte) ([]byte, error) {
	a, err := c.exchange(ctx, m, path, body, wire.MaxCertificateReply)
	if err != nil {
		return nil, err
	}
	if a.status == http.StatusAccepted {
		return nil, &Accepted{RetryAfter: a.retryAfter}
	}
	reply := &agentv1.CertificateReply{}
	if err := a.read(reply, func() error { return wire.CheckCertificateReply(reply) }); err != nil {
		return nil, err
	}
	return reply.GetCertificate(), nil
}

// Heartbeat sends a heartbeat. It returns the checked answer or a *wire.Problem.
func (c *Client) Heartbeat(ctx context.Context, m Moment, beat *agentv1.Heartbeat) (*agentv1.HeartbeatReply, error) {
	body, err := wire.Protobuf.Marshal(beat)
	if err != nil {
		return nil, problem.New(wire.Internal, err.Error())
	}
	a, err := c.exchange(ctx, m, wire.PathHeartbeat, body, wire.MaxHeartbeatReply)
	if err != nil {
		return nil, err
	}
	reply := &agentv1.HeartbeatReply{}
	return reply, a.read(reply, func() error { return wire.CheckHeartbeatReply(reply) })
}

// Update tells how far actions are. It returns the checked answer, an Ack for each update, or a *wire.Problem.
func (c *Client) Update(ctx context.Context, m Moment, updates *agentv1.ActionUpdates) (*agentv1.Acks, error) {
	body, err := wire.Protobuf.Marshal(updates)
	if err != nil {
		return nil, problem.New(wire.Internal, err.Error())
	}
	a, err := c.exchange(ctx, m, wire.PathActions, body, wire.MaxAcksBytes)
	if err != nil {
		return nil, err
	}
	acks := &agentv1.Acks{}
	if err := a.read(acks, func() error { return wire.CheckAcks(acks) }); err != nil {
		return nil, err
	}
	if len(acks.GetAcks()) != len(updates.GetUpdates()) {
		return nil, problem.New(problem.ReplyMalformed, "The server answered "+strconv.Itoa(len(updates.GetUpdates()))+" updates with "+strconv.Itoa(len(acks.GetAcks()))+" acknowledgements.")
	}
	return acks, nil
}

// exchange posts body.
func (c *Client) exchange(ctx context.Context, m Moment, path string, body []byte, limit int64) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	var a *answer
	err := m.try(&c.time, func() (err error) {
		a, err = c.post(ctx, path, body, limit)
		return err
	})
	if err != nil {
		return nil, explain(c.server, err)
	}
	c.suite.Store(uint32(a.suite))
	return a, a.problem()
}

func (c *Client) post(ctx context.Context, path string, body []byte, limit int64) (*answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.server.URL.JoinPath(path).String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", wire.Protobuf.ContentType())
	return roundTrip(c.http, c.server, req, limit)
}

// try does something by the clock that certificates are judged by. A server certificate that is out of its time is given a second chance while
// the agent only estimates the time.
func (m Moment) try(clock *atomic.Pointer[time.Time], do func() error) error {
	clock.Store(&m.Now)
	err := do()
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		if now, plausible := m.within(invalid.Cert); plausible {
			clock.Store(&now)
			err = do()
		}
	}
	return err
}

// within moves an estimated time into the validity of a certificate, if the floor allows. Before the first beacon the machine's wall clock
// is all there is, and it may be wrong by years; a certificate that is not valid by it says little. That it ended before the floor does.
func (m Moment) within(cert *x509.Certificate) (time.Time, bool) {
	switch {
	case m.Anchored:
		return m.Now, false
	case m.Now.Before(cert.NotBefore):
		return cert.NotBefore, true
	default:
		return cert.NotAfter, cert.NotAfter.After(m.Floor)
	}
}

// answer is an HTTP answer, read whole.
type answer struct {
	status      int
	contentType string
	retryAfter  time.Duration
	body        []byte
	suite       uint16
}

// introduce sets the headers of every request.
func (s Server) introduce(h http.Header) {
	h.Set(wire.HeaderAgentVersion, s.AgentVersion)
	h.Set("User-Agent", "rollcall-agent/"+s.AgentVersion)
}

func roundTrip(client *http.Client, server Server, req *http.Request, limit int64) (*answer, error) {
	server.introduce(req.Header)
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // only read
	if resp.StatusCode >= http.StatusBadRequest {
		limit = wire.MaxProblemBytes
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(body)) > limit {
		return nil, problem.New(problem.ReplyMalformed, "The answer has more than "+strconv.FormatInt(limit, 10)+" bytes.")
	}
	a := &answer{status: resp.StatusCode, contentType: resp.Header.Get("Content-Type"), body: body}
	if resp.TLS != nil {
		a.suite = resp.TLS.CipherSuite
	}
	a.retryAfter = retryAfter(resp.Header)
	return a, nil
}

// retryAfter is what the header of that name says, in seconds; 0 for nothing.
func retryAfter(h http.Header) time.Duration {
	seconds, err := strconv.ParseUint(h.Get("Retry-After"), 10, 16)
	if err != nil {
		return 0
	}
	return time.Duration(seconds) * time.Second
}

// problem is nil for an answer that is a success.
func (a *answer) problem() error {
	if a.status == http.StatusOK || a.status == http.StatusAccepted || a.status == http.StatusNotModified {
		return nil
	}
	if p, ok := wire.ParseProblem(a.status, a.contentType, a.body); ok {
		p.RetryAfter = max(p.RetryAfter, a.retryAfter)
		return p
	}
	p := problem.New(problem.ReplyMalformed, "The server answered with "+strconv.Itoa(a.status)+" "+http.StatusText(a.status)+" and no reason.")
	p.RetryAfter = a.retryAfter
	return p
}

// read decodes a success and checks its bounds.
func (a *answer) read(m wire.Message, check func() error) error {
	if a.status != http.StatusOK || a.contentType != wire.Protobuf.ContentType() {
		return problem.New(problem.ReplyMalformed, "The server answered with "+strconv.Itoa(a.status)+" and content of the type "+strconv.Quote(a.contentType)+".")
	}
	if err := wire.Protobuf.Unmarshal(a.body, m); err != nil {
		return problem.New(problem.ReplyMalformed, "The server's answer does not parse.")
	}
	if err := check(); err != nil {
		return problem.New(problem.ReplyMalformed, "The server's answer exceeds a bound: "+err.Error()+".")
	}
	return nil
}

// noRedirect: nobody may send an agent elsewhere.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

func newTransport(server Server, config *tls.Config) *http.Transport {
	transport := &http.Transport{
		DialContext:            (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    handshakeTimeout,
		Protocols:              new(http.Protocols),
		DisableCompression:     true,
		MaxConnsPerHost:        1,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: wire.MaxHeaderBytes,
	}
	transport.Protocols.SetHTTP1(true)
	useProxy(transport, server.Proxy)
	return transport
}
