package listen

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(victim) != "" {
		serveAsVictim()
		return
	}
	goleak.VerifyTestMain(m)
}

// start serves handler on loopback until the test ends.
func start(t testing.TB, config Config, handler http.Handler) (*Server, string) {
	t.Helper()
	serving := selfSigned(t, "gateway")
	if config.Certificate == nil {
		config.Certificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &serving, nil }
	}
	if config.Welcome == nil {
		config.Welcome = func(*tls.ConnectionState, *Peer) http.Handler { return handler }
	}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := New(config)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		s.Shutdown(ctx)
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return s, l.Addr().String()
}

func selfSigned(t testing.TB, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// clientTLS does not verify the server: that is the agent's test.
func clientTLS() *tls.Config { return &tls.Config{InsecureSkipVerify: true} }

func dial(t testing.TB, addr string, config *tls.Config) *tls.Conn {
	t.Helper()
	c, err := tls.Dial("tcp", addr, config)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

// reply is an answer that was read whole.
type reply struct {
	status int
	header http.Header
	body   string
	last   bool // it said that the connection ends
}

// exchange sends raw bytes, reads that many answers, and tells whether the server then closed the connection.
func exchange(t testing.TB, addr, request string, answers int) (got []reply, closed bool) {
	t.Helper()
	c := dial(t, addr, clientTLS())
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatalf("write: %v", err)
	}
	in := bufio.NewReader(c)
	for range answers {
		method, _, _ := strings.Cut(request, " ")
		resp, err := http.ReadResponse(in, &http.Request{Method: method})
		if err != nil {
			t.Fatalf("answer %d: %v", len(got)+1, err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			t.Fatalf("body %d: %v", len(got)+1, err)
		}
		got = append(got, reply{resp.StatusCode, resp.Header, string(body), resp.Close})
	}
	_ = c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	_, err := in.ReadByte()
	return got, err == io.EOF
}
