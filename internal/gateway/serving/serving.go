// Package serving keeps the certificate that a gateway shows to agents: the key never leaves memory, and each process has its own.
package serving

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
)

// Source has certificates signed. *store.Store is one.
type Source interface {
	ServingCertificate(ctx context.Context, names []string) (tls.Certificate, error)
}

const (
	// attempt is how long one attempt waits for its answer.
	attempt = 30 * time.Second
	// firstPause and longestPause are between attempts that fail.
	firstPause, longestPause = time.Second, time.Minute
)

var errNone = errors.New("no serving certificate yet: the manager has not signed one")

// Keeper gets a certificate and renews it.
type Keeper struct {
	source Source
	names  []string
	renew  time.Duration
	log    logr.Logger
	now    atomic.Pointer[tls.Certificate]
}

// New makes a keeper of a certificate with these names, renewed at this age, or at half of its life if that is less.
func New(source Source, names []string, renew time.Duration, log logr.Logger) *Keeper {
	return &Keeper{source: source, names: names, renew: renew, log: log}
}

// Certificate is for tls.Config.GetCertificate.
func (k *Keeper) Certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c := k.now.Load(); c != nil {
		return c, nil
	}
	return nil, errNone
}

// Expires is when the certificate does; zero while there is none.
func (k *Keeper) Expires() time.Time {
	if c := k.now.Load(); c != nil {
		return c.Leaf.NotAfter
	}
	return time.Time{}
}

// Ready is nil while there is a certificate that is good.
func (k *Keeper) Ready(now time.Time) error {
	switch expires := k.Expires(); {
	case expires.IsZero():
		return errNone
	case !now.Before(expires):
		return fmt.Errorf("the serving certificate expired at %s and could not be renewed", expires.UTC().Format(time.RFC3339))
	}
	return nil
}

// Run gets the first certificate and renews it until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	for pause := firstPause; ; {
		next, err := k.get(ctx)
		if ctx.Err() != nil {
			return
		}
		wait := next
		if err != nil {
			wait = pause/2 + rand.N(pause/2+1) //nolint:gosec // so that replicas do not ask in step; not a secret
			pause = min(2*pause, longestPause)
			k.log.Info("There is no serving certificate; this is tried again.", "reason", err.Error(), "after", wait.Round(time.Millisecond).String())
		} else {
			pause = firstPause
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// get asks for a certificate and tells when to ask for the next.
func (k *Keeper) get(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	c, err := k.source.ServingCertificate(ctx, k.names)
	if err != nil {
		return 0, err
	}
	if c.Leaf == nil {
		if c.Leaf, err = x509.ParseCertificate(c.Certificate[0]); err != nil {
			return 0, fmt.Errorf("parse the serving certificate: %w", err)
		}
	}
	left := time.Until(c.Leaf.NotAfter)
	if left <= 0 {
		return 0, fmt.Errorf("the new serving certificate has expired already, at %s: compare the clocks of gateway and manager", c.Leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	k.now.Store(&c)
	k.log.Info("Serving with a new certificate.", "names", k.names, "expires", c.Leaf.NotAfter.UTC().Format(time.RFC3339))
	return min(k.renew, left/2), nil
}
