package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"

	"golang.org/x/net/http/httpproxy"

	"github.com/rollcall-dev/rollcall/internal/agent/problem"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// DefaultPort is where a gateway listens when its URL names no port.
const DefaultPort = "8443"

// tlsConfig is TLS as the protocol has it: 1.2, ECDHE and AEAD, no renegotiation, HTTP/1.1.
func tlsConfig(host string) *tls.Config {
	return &tls.Config{ //nolint:gosec // TLS 1.2 and nothing else is what the fleet speaks
		MinVersion: tls.VersionTLS12,
		MaxVersion: tls.VersionTLS12,
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP256},
		NextProtos:       []string{"http/1.1"},
		ServerName:       host,
		RootCAs:          x509.NewCertPool(), // empty, never the system's; New puts the fleet's in its place
		Renegotiation:    tls.RenegotiateNever,
	}
}

// ParseServer reads a server's URL: https, a host, no path. The port defaults to DefaultPort.
func ParseServer(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("the server's URL is https://host:port and nothing more, not %q", s)
	}
	if u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), DefaultPort)
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host}, nil
}

// ParseProxy finds the proxy to a server. What a person named comes first, "direct" for none; empty: HTTPS_PROXY and NO_PROXY.
func ParseProxy(named string, server *url.URL) (*url.URL, error) {
	switch named {
	case "direct":
		return nil, nil
	case "":
		u, err := httpproxy.FromEnvironment().ProxyFunc()(server)
		if err != nil || u == nil {
			return nil, err
		}
		named = u.String()
	}
	u, err := url.Parse(named)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return nil, errors.New("the proxy is http://host:port, https://host:port or direct") // it may hold a password: not repeated
	}
	return &url.URL{Scheme: u.Scheme, User: u.User, Host: u.Host}, nil
}

// ProxyName is a proxy without its password, "" for none.
func ProxyName(proxy *url.URL) string {
	if proxy == nil {
		return ""
	}
	return proxy.Scheme + "://" + proxy.Host
}

// useProxy tunnels through proxy. TLS to an https proxy is of the machine's own trust: it carries the tunnel and sees nothing in it.
func useProxy(t *http.Transport, proxy *url.URL) {
	if proxy == nil {
		return
	}
	t.Proxy = http.ProxyURL(proxy)
	t.OnProxyConnectResponse = func(_ context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
		if resp.StatusCode != http.StatusOK {
			return problem.New(problem.ProxyRefused, "The proxy "+ProxyName(proxy)+" answered CONNECT with "+resp.Status+".")
		}
		return nil
	}
	if proxy.Scheme == "https" {
		t.DialTLSContext = (&tls.Dialer{Config: &tls.Config{ServerName: proxy.Hostname(), MinVersion: tls.VersionTLS12}}).DialContext
	}
}

// explain makes a problem of why an exchange failed.
func explain(server Server, err error) *wire.Problem {
	if p, ok := errors.AsType[*wire.Problem](err); ok {
		return p
	}
	if urlErr, ok := errors.AsType[*url.Error](err); ok {
		err = urlErr.Err // without the method and the URL
	}
	host := server.URL.Host
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "proxyconnect" {
		return problem.New(problem.ProxyRefused, fmt.Sprintf("The proxy %s cannot be reached: %v.", ProxyName(server.Proxy), op.Err))
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return problem.New(problem.ServerUntrusted, "The certificate of "+host+" was not issued by this fleet's server CA.")
	}
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok && e.Reason == x509.Expired {
		return problem.New(problem.ServerClockDisagrees, fmt.Sprintf("The certificate of %s is valid from %s to %s, which is not now: %s.",
			host, e.Cert.NotBefore.Format("2006-01-02 15:04:05Z07:00"), e.Cert.NotAfter.Format("2006-01-02 15:04:05Z07:00"), e.Detail))
	}
	if e, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return problem.New(problem.ServerUntrusted, fmt.Sprintf("The certificate of %s does not hold: %v.", host, e.Err))
	}
	return problem.New(problem.ServerUnreachable, unreachable(server, err))
}

func unreachable(server Server, err error) string {
	host := server.URL.Host
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return fmt.Sprintf("The name %s does not resolve: %s.", dns.Name, dns.Err)
	}
	_, garbage := errors.AsType[tls.RecordHeaderError](err)
	switch {
	case garbage || errors.Is(err, http.ErrSchemeMismatch):
		return host + " answers, but does not speak TLS."
	case errors.Is(err, syscall.ECONNREFUSED):
		return "Nothing listens at " + host + "."
	case errors.Is(err, context.DeadlineExceeded):
		return host + " did not answer in time."
	default:
		return fmt.Sprintf("The exchange with %s failed: %v.", host, err)
	}
}
