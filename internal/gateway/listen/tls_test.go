package listen

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// suites is every number that IANA has given a name to, and some that it has not.
func suites() (all []uint16) {
	for _, r := range [][2]int{{0x0000, 0x00ff}, {0x1300, 0x1307}, {0x5600, 0x5600}, {0xc000, 0xc0ff}, {0xc100, 0xc106}, {0xcca8, 0xccae}, {0xd000, 0xd005}} {
		for s := r[0]; s <= r[1]; s++ {
			all = append(all, uint16(s))
		}
	}
	return all
}

var versions = []struct {
	name    string
	version uint16
}{{"SSL 2.0", ssl2}, {"SSL 3.0", ssl3}, {"TLS 1.0", tls10}, {"TLS 1.1", tls11}, {"TLS 1.2", tls12}, {"TLS 1.3", tls13}}

// TestOnlyTLS12WithECDHEAndAEAD offers every suite in every version, one by one, and prints what is answered.
func TestOnlyTLS12WithECDHEAndAEAD(t *testing.T) {
	_, addr := start(t, Config{}, echo)
	var table strings.Builder
	_, _ = fmt.Fprintf(&table, "%-8s  %6s  %8s  %s\n", "version", "suites", "accepted", "answers")
	accepted := map[string][]string{}
	for _, v := range versions {
		answers := map[string]int{}
		for _, s := range suites() {
			got, err := offer(addr, newHello(t, v.version, s).record())
			text := got.String()
			if err != nil {
				text = "closed"
			}
			if err == nil && got.alert < 0 {
				text = "accepted"
				if got.version != v.version || got.suite != s {
					t.Errorf("%s %04x was answered with %s", v.name, s, got)
				}
				accepted[v.name] = append(accepted[v.name], tls.CipherSuiteName(s))
			}
			answers[text]++
		}
		_, _ = fmt.Fprintf(&table, "%-8s  %6d  %8d  %v\n", v.name, len(suites()), answers["accepted"], answers)
		for _, name := range accepted[v.name] {
			_, _ = fmt.Fprintf(&table, "%28s%s\n", "", name)
		}
	}
	t.Logf("\n%s", table.String())
	want := map[string][]string{"TLS 1.2": {
		"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
	}}
	if diff := cmp.Diff(want, accepted); diff != "" {
		t.Errorf("accepted (-want +got):\n%s", diff)
	}
}

func TestOtherParametersOfTLS(t *testing.T) {
	_, addr := start(t, Config{}, echo)
	const suite = tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
	for _, test := range []struct {
		name   string
		change func(*hello)
		want   answer
	}{
		{"as it should be", func(*hello) {}, answer{-1, tls12, suite}},
		{"P-256 alone", func(h *hello) { h.curves = []uint16{23} }, answer{-1, tls12, suite}},
		{"P-384 alone", func(h *hello) { h.curves = []uint16{24} }, answer{alert: 40}},
		{"P-521 alone", func(h *hello) { h.curves = []uint16{25} }, answer{alert: 40}},
		{"HTTP/1.1", func(h *hello) { h.alpn = []string{"http/1.1"} }, answer{-1, tls12, suite}},
		{"HTTP/2 before HTTP/1.1", func(h *hello) { h.alpn = []string{"h2", "http/1.1"} }, answer{-1, tls12, suite}},
		{"HTTP/2 alone", func(h *hello) { h.alpn = []string{"h2"} }, answer{alert: 120}},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHello(t, tls12, suite)
			test.change(h)
			got, err := offer(addr, h.record())
			if err != nil || got != test.want {
				t.Errorf("got %s, %v; want %s", got, err, test.want)
			}
		})
	}
}

// what the Welcome of a connection was told.
type told struct {
	certificates int
	ems, resumed bool
}

func welcomes() (func(*tls.ConnectionState, *Peer) http.Handler, func() []told, func() [][]*x509.Certificate) {
	var mu sync.Mutex
	var all []told
	var slices [][]*x509.Certificate
	return func(state *tls.ConnectionState, _ *Peer) http.Handler {
			mu.Lock()
			defer mu.Unlock()
			_, err := state.ExportKeyingMaterial("EXPERIMENTAL rollcall", nil, 16)
			all = append(all, told{len(state.PeerCertificates), err == nil, state.DidResume})
			slices = append(slices, state.PeerCertificates)
			return echo
		}, func() []told {
			mu.Lock()
			defer mu.Unlock()
			return all
		}, func() [][]*x509.Certificate {
			mu.Lock()
			defer mu.Unlock()
			return slices
		}
}

func get(t *testing.T, addr string, config *tls.Config) {
	t.Helper()
	c := dial(t, addr, config)
	_, _ = io.WriteString(c, "GET /a HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
}

func TestResumptionKeepsTheClientAndEndsWithItsKeys(t *testing.T) {
	welcome, seen, kept := welcomes()
	s, addr := start(t, Config{Welcome: welcome}, nil)
	client := clientTLS()
	client.Certificates = []tls.Certificate{selfSigned(t, "agent")}
	client.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	get(t, addr, client) // full
	get(t, addr, client) // resumed
	s.keys.rotate(s.tls)
	get(t, addr, client) // resumed with the previous key; gets a ticket of the current one
	s.keys.rotate(s.tls)
	s.keys.rotate(s.tls)
	get(t, addr, client) // full: its key is gone
	want := []told{{1, true, false}, {1, true, true}, {1, true, true}, {1, true, false}}
	if diff := cmp.Diff(want, seen(), cmp.AllowUnexported(told{})); diff != "" {
		t.Errorf("connections (-want +got):\n%s", diff)
	}
	for _, certificates := range kept() {
		for _, c := range certificates {
			if c != nil {
				t.Error("a connection keeps its parsed certificate")
			}
		}
	}
}

func TestTicketKeysLiveTwoHours(t *testing.T) {
	for hours, want := range []struct{ current, previous bool }{{true, false}, {false, true}, {false, false}} {
		synctest.Test(t, func(t *testing.T) {
			s := New(Config{})
			first := s.keys.current
			go s.keys.run(s.ctx, s.tls)
			time.Sleep(time.Duration(hours)*time.Hour + time.Second) //nolint:forbidigo // in a bubble
			s.cancel()
			synctest.Wait()
			if current, previous := s.keys.current == first, s.keys.previous == first; current != want.current || previous != want.previous {
				t.Errorf("after %d h the first key is the current one: %v, the previous one: %v; want %+v", hours, current, previous, want)
			}
		})
	}
}

// TestHandshakeWithoutExtendedMasterSecret: TLS lets such a client in, and what is asked above it finds out.
func TestHandshakeWithoutExtendedMasterSecret(t *testing.T) {
	welcome, seen, _ := welcomes()
	_, addr := start(t, Config{Welcome: welcome}, nil)
	for _, ems := range []bool{true, false} {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		reply, err := oldClient(t, c, ems, selfSigned(t, "agent"), "GET /a HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n")
		if err != nil || !strings.HasPrefix(reply, "HTTP/1.1 200") {
			t.Fatalf("ems %v: %q, %v", ems, reply, err)
		}
	}
	if diff := cmp.Diff([]told{{1, true, false}, {1, false, false}}, seen(), cmp.AllowUnexported(told{})); diff != "" {
		t.Errorf("connections (-want +got):\n%s", diff)
	}
}

func TestPlainHTTPIsToldToUseTLS(t *testing.T) {
	_, addr := start(t, Config{}, echo)
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_, _ = io.WriteString(c, "GET /agent/v1/trust HTTP/1.1\r\nHost: g\r\n\r\n")
	reply, _ := io.ReadAll(c)
	if !strings.Contains(string(reply), "TLS 1.2") {
		t.Errorf("got %q", reply)
	}
}
