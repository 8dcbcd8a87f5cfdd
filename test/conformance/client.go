package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	agentVersion = "8.0.0"
	typeJSON     = "application/json"
	typeProtobuf = "application/x-protobuf"
)

// suites are all that the protocol has.
var suites = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
}

// client speaks to the server in one way: with or without certificate, verifying or not.
type client struct {
	server *url.URL
	http   *http.Client
}

func newClient(server *url.URL, config *tls.Config) *client {
	config.MinVersion, config.MaxVersion, config.CipherSuites = tls.VersionTLS12, tls.VersionTLS12, suites
	config.NextProtos = []string{"http/1.1"}
	config.ServerName = server.Hostname()
	transport := &http.Transport{TLSClientConfig: config, Protocols: new(http.Protocols), DisableCompression: true, Proxy: http.ProxyFromEnvironment}
	transport.Protocols.SetHTTP1(true)
	return &client{server, &http.Client{
		Transport: transport, Timeout: 45 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func (c *client) close() { c.http.CloseIdleConnections() }

// call is one request. Zero values are those of a good one with JSON.
type call struct {
	method, path, query string
	body                []byte
	contentType, accept string
	header              http.Header
	chunked             bool
}

// answer is an HTTP answer, read within its bound.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (c *client) request(ctx context.Context, q call) (*http.Request, error) {
	var body io.Reader
	if q.body != nil {
		body = bytes.NewReader(q.body)
	}
	if q.chunked {
		body = io.MultiReader(body) // hides the length
	}
	target := *c.server
	target.Path, target.RawQuery = q.path, q.query
	req, err := http.NewRequestWithContext(ctx, q.method, target.String(), body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Rollcall-Agent-Version", agentVersion)
	if q.body != nil {
		req.Header.Set("Content-Type", typeJSON)
	}
	for name, value := range map[string]string{"Content-Type": q.contentType, "Accept": q.accept} {
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	for name, values := range q.header {
		req.Header[name] = values
	}
	return req, nil
}

func (c *client) once(ctx context.Context, q call, limit int64) (*answer, error) {
	req, err := c.request(ctx, q)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req) //nolint:bodyclose // consume closes it
	if err != nil {
		return nil, err
	}
	return consume(resp, limit)
}

func consume(resp *http.Response, limit int64) (*answer, error) {
	defer func() { _ = resp.Body.Close() }() // only read
	if resp.StatusCode >= 400 {
		limit = 16 << 10
	}
	got, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err == nil && int64(len(got)) > limit {
		err = fmt.Errorf("the answer has more than %d bytes", limit)
	}
	return &answer{resp.StatusCode, resp.Header, got}, err
}

// do repeats a request as long as the server asks to wait: 202, throttled, overloaded, draining, not ready.
func (c *client) do(ctx context.Context, q call, limit int64) (*answer, error) {
	return patiently(ctx, func() (*answer, error) { return c.once(ctx, q, limit) })
}

func patiently(ctx context.Context, ask func() (*answer, error)) (*answer, error) {
	for n := 0; ; n++ {
		a, err := ask()
		if err != nil {
			return nil, err
		}
		if a.status != http.StatusAccepted && a.status != http.StatusTooManyRequests && a.status != http.StatusServiceUnavailable {
			return a, nil
		}
		if a.status == http.StatusAccepted && a.header.Get("Retry-After") == "" {
			return nil, errors.New("an answer of 202 without Retry-After")
		}
		if err := wait(ctx, max(a.retryAfter(), backoff(n))); err != nil {
			return nil, fmt.Errorf("the last answer was %s: %w", a, err)
		}
	}
}

func (a *answer) retryAfter() time.Duration {
	n, err := strconv.ParseUint(a.header.Get("Retry-After"), 10, 16)
	if err != nil {
		return 0
	}
	return time.Duration(n) * time.Second
}

func backoff(n int) time.Duration { return min(100*time.Millisecond<<min(n, 10), 10*time.Second) }

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (a *answer) String() string { return fmt.Sprintf("%d %.200s", a.status, a.body) }

// read parses a success in JSON.
func (a *answer) read(m any) error {
	if a.status != http.StatusOK || a.header.Get("Content-Type") != typeJSON {
		return fmt.Errorf("want 200 and %s, got %s as %q", typeJSON, a, a.header.Get("Content-Type"))
	}
	return json.Unmarshal(a.body, m)
}

// statuses of the problems that this agent can provoke.
var statuses = map[string]int{
	"certificate-required": 401, "certificate-unknown": 401, "certificate-superseded": 401, "identity-conflict": 409, "session-replaced": 409,
	"token-unknown": 403, "proof-invalid": 403, "csr-invalid": 400, "malformed": 400, "not-found": 404, "method-not-allowed": 405,
	"agent-version-unsupported": 403, "subprotocol-unsupported": 400, "artifact-not-offered": 404, "range-not-satisfiable": 416, "throttled": 429,
	"length-required": 411, "protocol-version-unsupported": 410, "payload-too-large": 413, "media-type-unsupported": 415,
}

// refused tells whether the answer is the problem document of that name, whole.
func (a *answer) refused(name string) error {
	var p problem
	if a.header.Get("Content-Type") != "application/problem+json" {
		return fmt.Errorf("want the problem %s, got %s as %q", name, a, a.header.Get("Content-Type"))
	}
	if err := json.Unmarshal(a.body, &p); err != nil {
		return fmt.Errorf("the problem document does not parse: %w", err)
	}
	got, ours := strings.CutPrefix(p.Type, "https://rollcall.dev/problems/")
	switch {
	case !ours || got != name:
		return fmt.Errorf("want the problem %s, got %s", name, a)
	case a.status != statuses[name] || p.Status != a.status:
		return fmt.Errorf("%s came with status %d in HTTP and %d in the document, want %d", name, a.status, p.Status, statuses[name])
	case p.Title == "" || p.Detail == "":
		return fmt.Errorf("%s says nothing to people: title %q, detail %q", name, p.Title, p.Detail)
	}
	return nil
}
