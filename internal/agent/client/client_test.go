package client

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/agent/fleettest"
	"github.com/rollcall-dev/rollcall/internal/agent/problem"
	"github.com/rollcall-dev/rollcall/internal/identity"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func moment() Moment { return Moment{Now: time.Now(), Anchored: true} }

func dial(t *testing.T, f *fleettest.Fleet, server Server) *Client {
	t.Helper()
	trust, err := identity.OpenTrust(f.Token().RootPin, f.Chain)
	if err != nil {
		t.Fatal(err)
	}
	server.AgentVersion = "8.0.0"
	c := New(server, trust.ServerPool(), nil)
	t.Cleanup(c.Close)
	return c
}

// beat sends something that needs a server; without a certificate the gateway refuses it, which is an answer all the same.
func beat(c *Client, m Moment) *wire.Problem {
	_, err := c.Heartbeat(context.Background(), m, &agentv1.Heartbeat{Agent: &agentv1.AgentInfo{
		Version: "8.0.0", Platform: "linux/amd64", InstanceId: strings.Repeat("0", 32), Epoch: 1,
	}})
	if err == nil {
		return nil
	}
	return problem.Of(err)
}

func TestBelievesTheFleetAlone(t *testing.T) {
	f := fleettest.New(t, time.Now)
	other := fleettest.New(t, time.Now)
	now := time.Now()
	hour := func(n int) time.Time { return now.Add(time.Duration(n) * time.Hour) }
	foreign := fleettest.Serving(hour(-1), hour(1))
	foreign.DNSNames, foreign.IPAddresses = []string{"elsewhere.example"}, nil
	for _, c := range []struct {
		name   string
		server *fleettest.Gateway
		at     Moment
		want   wire.Name
		detail string
	}{
		{"its own", f.Serve(t), moment(), wire.CertificateRequired, ""},
		{"another fleet's", f.ServeWith(t, other.ServerCA, fleettest.Serving(hour(-1), hour(1))), moment(), problem.ServerUntrusted, "not issued by this fleet's server CA"},
		{"an agent's CA", f.ServeWith(t, f.AgentCA, fleettest.Serving(hour(-1), hour(1))), moment(), problem.ServerUntrusted, "not issued by this fleet's server CA"},
		{"another name", f.ServeWith(t, f.ServerCA, foreign), moment(), problem.ServerUntrusted, "127.0.0.1"},
		{"expired", f.ServeWith(t, f.ServerCA, fleettest.Serving(hour(-2), hour(-1))), moment(), problem.ServerClockDisagrees, "is valid from"},
		{"not yet valid", f.ServeWith(t, f.ServerCA, fleettest.Serving(hour(1), hour(2))), moment(), problem.ServerClockDisagrees, "is valid from"},
		{"a clock at 1970, no beacon yet", f.Serve(t), Moment{Now: time.Unix(0, 0)}, wire.CertificateRequired, ""},
		{"a clock at 2099, no beacon yet", f.Serve(t), Moment{Now: time.Unix(4_070_908_800, 0), Floor: hour(-1)}, wire.CertificateRequired, ""},
		{"a certificate that ended before the floor", f.ServeWith(t, f.ServerCA, fleettest.Serving(hour(-2), hour(-1))), Moment{Now: now, Floor: now}, problem.ServerClockDisagrees, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := beat(dial(t, f, Server{URL: c.server.URL}), c.at)
			if p == nil || p.Name != c.want || !strings.Contains(p.Detail, c.detail) {
				t.Errorf("got %v, want %s", p, c.want)
			}
			if c.want != wire.CertificateRequired && len(c.server.Beats()) > 0 {
				t.Error("the heartbeat was told to a server that is not trusted")
			}
		})
	}
}

func TestTLSIsExact(t *testing.T) {
	hello := make(chan *tls.ClientHelloInfo, 1)
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.TLS = &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		hello <- h
		return nil, errors.New("seen enough")
	}, MinVersion: tls.VersionTLS12}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	p := beat(dial(t, fleettest.New(t, time.Now), Server{URL: u}), moment())
	if p == nil || p.Name != problem.ServerUnreachable {
		t.Errorf("got %v, want %s", p, problem.ServerUnreachable)
	}
	got := <-hello
	if len(got.SupportedVersions) != 1 || got.SupportedVersions[0] != tls.VersionTLS12 {
		t.Errorf("versions %x, want TLS 1.2 alone", got.SupportedVersions)
	}
	for _, suite := range got.CipherSuites {
		if name := tls.CipherSuiteName(suite); !strings.HasPrefix(name, "TLS_ECDHE_ECDSA_WITH_AES_") && !strings.Contains(name, "CHACHA20_POLY1305") || strings.Contains(name, "CBC") {
			t.Errorf("offers %s", name)
		}
	}
	if len(got.CipherSuites) != 3 || len(got.SupportedProtos) != 1 || got.SupportedProtos[0] != "http/1.1" {
		t.Errorf("suites %x, protocols %v", got.CipherSuites, got.SupportedProtos)
	}
}

func TestAnswersAreBounded(t *testing.T) {
	f := fleettest.New(t, time.Now)
	g := f.Serve(t)
	c := dial(t, f, Server{URL: g.URL})
	raw := func(status int, contentType, body string, header ...string) fleettest.Answer {
		return func(w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) {
			w.Header().Set("Content-Type", contentType)
			for i := 0; i+1 < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	pb := wire.Protobuf.ContentType()
	for _, a := range []struct {
		name   string
		answer fleettest.Answer
		want   wire.Name
		retry  time.Duration
	}{
		{"a problem", fleettest.Refuse(&wire.Problem{Name: wire.Throttled, RetryAfter: 7 * time.Second}), wire.Throttled, 7 * time.Second},
		{"an unknown problem", raw(418, "application/problem+json", `{"type":"https://rollcall.dev/problems/teapot"}`), "teapot", 0},
		{"a page of a proxy", raw(502, "text/html", "<h1>Bad Gateway</h1>", "Retry-After", "3"), problem.ReplyMalformed, 3 * time.Second},
		{"a page with 200", raw(200, "text/html", "<h1>Sign in</h1>"), problem.ReplyMalformed, 0},
		{"a redirect", raw(307, "text/plain", "", "Location", "https://127.0.0.1:1/"), problem.ReplyMalformed, 0},
		{"too much", raw(200, pb, strings.Repeat("x", wire.MaxHeartbeatReply+1)), problem.ReplyMalformed, 0},
		{"too much of a problem", raw(503, "application/problem+json", strings.Repeat(" ", wire.MaxProblemBytes+1)), problem.ReplyMalformed, 0},
		{"garbage", raw(200, pb, "\xff\xff\xff"), problem.ReplyMalformed, 0},
		{"out of bounds", raw(200, pb, string([]byte{0x3a, 2, 'a', 7})), problem.ReplyMalformed, 0},
		{"202 to a heartbeat", fleettest.Accept(time.Second), problem.ReplyMalformed, 0},
	} {
		t.Run(a.name, func(t *testing.T) {
			g.Next(wire.PathHeartbeat, a.answer)
			p := beat(c, moment())
			if p == nil || p.Name != a.want || p.RetryAfter != a.retry {
				t.Errorf("got %#v, want %s after %s", p, a.want, a.retry)
			}
		})
	}
}

func TestUnreachable(t *testing.T) {
	f := fleettest.New(t, time.Now)
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	_ = l.Close()
	for host, want := range map[string]string{
		l.Addr().String(): "Nothing listens at", plain.Listener.Addr().String(): "does not speak TLS", "no.such.host.invalid:8443": "does not resolve",
	} {
		p := beat(dial(t, f, Server{URL: &url.URL{Scheme: "https", Host: host}}), moment())
		if p == nil || p.Name != problem.ServerUnreachable || !strings.Contains(p.Detail, want) {
			t.Errorf("%s: %v, want %q", host, p, want)
		}
	}
}

func TestProxy(t *testing.T) {
	f := fleettest.New(t, time.Now)
	g := f.Serve(t)
	proxy := fleettest.NewProxy(t)
	through, err := ParseProxy(strings.Replace(proxy.URL.String(), "http://", "http://user:secret@", 1), g.URL)
	if err != nil {
		t.Fatal(err)
	}
	if p := beat(dial(t, f, Server{URL: g.URL, Proxy: through}), moment()); p == nil || p.Name != wire.CertificateRequired || proxy.Tunnels.Load() != 1 {
		t.Errorf("through the proxy: %v, %d tunnels", p, proxy.Tunnels.Load())
	}
	proxy.Refuse.Store(http.StatusProxyAuthRequired)
	p := beat(dial(t, f, Server{URL: g.URL, Proxy: through}), moment())
	if p == nil || p.Name != problem.ProxyRefused || !strings.Contains(p.Detail, "407") || strings.Contains(p.Detail, "secret") {
		t.Errorf("refused by the proxy: %v", p)
	}
	proxy.Stop()
	p = beat(dial(t, f, Server{URL: g.URL, Proxy: through}), moment())
	if p == nil || p.Name != problem.ProxyRefused || !strings.Contains(p.Detail, "cannot be reached") {
		t.Errorf("without the proxy: %v", p)
	}
}

func TestParse(t *testing.T) {
	for in, want := range map[string]string{
		"https://gw.example": "https://gw.example:8443", "https://gw.example:443/": "https://gw.example:443", "https://[::1]": "https://[::1]:8443",
		"http://gw.example": "", "https://": "", "https://gw/path": "", "https://u@gw": "", "gw.example:8443": "", "https://gw?x": "",
	} {
		u, err := ParseServer(in)
		if want == "" && err == nil || want != "" && (err != nil || u.String() != want) {
			t.Errorf("ParseServer(%q) = %s, %v, want %q", in, u, err, want)
		}
	}
	server, err := ParseServer("https://gw.example")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("HTTPS_PROXY", "http://proxy.example:3128")
	for named, want := range map[string]string{"": "http://proxy.example:3128", "direct": "", "http://other:1": "http://other:1", "socks5://x:1": "!", "proxy:3128": "!"} {
		u, err := ParseProxy(named, server)
		if got := ProxyName(u); (err != nil) != (want == "!") || err == nil && got != want {
			t.Errorf("ParseProxy(%q) = %q, %v, want %q", named, got, err, want)
		}
	}
	t.Setenv("NO_PROXY", ".example")
	if u, err := ParseProxy("", server); err != nil || u != nil {
		t.Errorf("NO_PROXY is not obeyed: %v, %v", u, err)
	}
}

// Whatever a server answers, the agent has a checked message or a problem.
func FuzzAnswer(f *testing.F) {
	f.Add(200, "application/x-protobuf", []byte{0x3a, 1, 'a'})
	f.Add(503, "application/problem+json", []byte(`{"type":"https://rollcall.dev/problems/not-ready","retryAfter":3}`))
	f.Fuzz(func(t *testing.T, status int, contentType string, body []byte) {
		a := &answer{status: status, contentType: contentType, body: body}
		if err := a.problem(); err != nil {
			if p := problem.Of(err); p.Name == "" || p.Error() == "" || p.RetryAfter < 0 {
				t.Errorf("a problem without words: %#v", p)
			}
			return
		}
		beat, cert, trust := &agentv1.HeartbeatReply{}, &agentv1.CertificateReply{}, &agentv1.TrustReply{}
		if a.read(beat, func() error { return wire.CheckHeartbeatReply(beat) }) == nil && len(beat.GetOrders()) > wire.MaxOrders {
			t.Error("too many orders")
		}
		if a.read(cert, func() error { return wire.CheckCertificateReply(cert) }) == nil && len(cert.GetCertificate()) > wire.MaxCertificateBytes {
			t.Error("too large a certificate")
		}
		if a.read(trust, func() error { return wire.CheckTrustReply(trust) }) == nil && len(trust.GetBundles()) > wire.MaxTrustPerReply {
			t.Error("too many bundles")
		}
	})
}
