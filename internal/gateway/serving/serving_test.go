package serving

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
)

// signer gives certificates of one life, and refuses where the test says so.
type signer struct {
	life  time.Duration
	fails func(n int) bool
	began time.Time

	mu    sync.Mutex
	asked []time.Duration
}

func (s *signer) attempts() []time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

func (s *signer) ServingCertificate(context.Context, []string) (tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, time.Since(s.began))
	if s.fails != nil && s.fails(len(s.asked)) {
		return tls.Certificate{}, errors.New("not now")
	}
	return tls.Certificate{Leaf: &x509.Certificate{NotAfter: time.Now().Add(s.life)}}, nil
}

func TestRenewal(t *testing.T) {
	for _, test := range []struct {
		name        string
		life, renew time.Duration
		want        []time.Duration
	}{
		{"daily", 72 * time.Hour, 24 * time.Hour, []time.Duration{0, 24 * time.Hour, 48 * time.Hour, 72 * time.Hour}},
		{"a short life", 20 * time.Hour, 24 * time.Hour, []time.Duration{0, 10 * time.Hour, 20 * time.Hour, 30 * time.Hour}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &signer{life: test.life, began: time.Now()}
				k := New(s, []string{"gateway"}, test.renew, logr.Discard())
				ctx, cancel := context.WithTimeout(t.Context(), test.want[len(test.want)-1]+time.Minute)
				defer cancel()
				k.Run(ctx)
				if diff := cmp.Diff(test.want, s.attempts()); diff != "" {
					t.Errorf("asked (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestOldCertificateStaysWhileNoneIsSigned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &signer{life: 72 * time.Hour, began: time.Now(), fails: func(n int) bool { return n < 4 || n > 4 }}
		k := New(s, []string{"gateway"}, 24*time.Hour, logr.Discard())
		if _, err := k.Certificate(nil); err == nil || k.Ready(time.Now()) == nil {
			t.Error("ready without a certificate")
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			k.Run(ctx)
			close(done)
		}()
		time.Sleep(10 * time.Second) //nolint:forbidigo // in a bubble: three attempts fail
		synctest.Wait()
		if k.Ready(time.Now()) != nil {
			t.Fatalf("no certificate after 10 s; asked at %s", s.attempts())
		}
		time.Sleep(48 * time.Hour) //nolint:forbidigo // in a bubble
		synctest.Wait()
		if c, err := k.Certificate(nil); err != nil || c == nil || k.Ready(time.Now()) != nil {
			t.Errorf("an old certificate that is still good is not used: %v", err)
		}
		tries := len(s.attempts())
		time.Sleep(25 * time.Hour) //nolint:forbidigo // in a bubble
		synctest.Wait()
		if k.Ready(time.Now()) == nil {
			t.Error("ready with an expired certificate")
		}
		if n := len(s.attempts()) - tries; n < 25*60 || n > 25*120+60 {
			t.Errorf("%d attempts in 25 h, want one in 30 to 60 s", n)
		}
		cancel()
		<-done
	})
}
