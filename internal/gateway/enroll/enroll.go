// Package enroll checks enrolments and renewals, and has the manager sign what holds. Everything that a gateway can check is checked before the
// first write; the manager checks all of it again.
package enroll

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/gateway/auth"
	"github.com/rollcall-dev/rollcall/internal/gateway/limit"
	"github.com/rollcall-dev/rollcall/internal/identity"
	"github.com/rollcall-dev/rollcall/internal/store"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// Source is what there is to know. *store.Store is one.
type Source interface {
	auth.Source
	Token(uid string) (store.Token, bool)
	EndpointByKey(spki store.KeyHash) (store.Endpoint, bool)
	// Certify has the manager sign a certificate request, see store.Store.
	Certify(ctx context.Context, spki, csrDER []byte, proof *agentv1.Envelope) (certDER []byte, err error)
}

// Config of a Service.
type Config struct {
	Source Source
	// PerSource, PerToken and Total limit requests whose proof is to be verified.
	PerSource, PerToken, Total limit.Rate
	// Renewal limits the renewals of one endpoint.
	Renewal limit.Rate
	// Wait is how long a request waits for the manager's answer, Waiting how many do at once: no more than there are places for strangers'
	// connections, or those who wait keep out those who come.
	Wait    time.Duration
	Waiting int
}

const (
	// maxSources and maxTokens are how many of each are remembered by the limits.
	maxSources, maxTokens = 1 << 14, 1 << 12
	// again is when to repeat a request that is not answered yet.
	again = 2 * time.Second
)

// Service enrols and renews.
type Service struct {
	config    Config
	perSource *limit.Keyed[netip.Addr]
	perToken  *limit.Keyed[string]

	mu       sync.Mutex
	total    limit.Queue
	waiting  int
	turns    limit.Queue          // of those for whom there was no place to wait
	renewals map[string]*renewals // by identity
}

// renewals of one endpoint. The newest request may be repeated as often as its answer is not there.
type renewals struct {
	pace   limit.State
	newest [sha256.Size]byte
}

// New makes a service.
func New(config Config) *Service {
	return &Service{
		config:    config,
		perSource: limit.New[netip.Addr](config.PerSource, maxSources),
		perToken:  limit.New[string](config.PerToken, maxTokens),
		renewals:  map[string]*renewals{},
	}
}

// Forget lets go of an identity that no endpoint has any more. It is for store.OnChange.
func (s *Service) Forget(identityID string) {
	if _, there := s.config.Source.EndpointByIdentity(identityID); there {
		return
	}
	s.mu.Lock()
	delete(s.renewals, identityID)
	s.mu.Unlock()
}

// Answer to an enrolment or a renewal: a certificate (DER), or else After: repeat the identical request then.
type Answer struct {
	Certificate []byte
	After       time.Duration
}

// Enroll checks an enrolment that keeps to its bounds and comes from an address, and has the manager answer it.
func (s *Service) Enroll(ctx context.Context, m *agentv1.EnrollRequest, from netip.Addr, now time.Time) (Answer, *wire.Problem) {
	trust, ok := s.config.Source.Trust()
	if !ok {
		return Answer{}, auth.NotReady("the trust bundle was not read yet")
	}
	signed := m.GetEnrollment()
	claimed, err := claims(signed)
	if err != nil {
		return Answer{}, refuse(err)
	}
	token, known := s.config.Source.Token(claimed.GetTokenUid())
	if p := s.judgeToken(token, known, claimed, now); p != nil {
		return Answer{}, p
	}
	leave, p := s.enter(now)
	if p != nil {
		return Answer{}, p
	}
	defer leave()
	if p := s.limit(from, token.UID, now); p != nil {
		return Answer{}, p
	}
	_, csr, err := identity.OpenEnrollment(signed, token.Key, trust.FleetID, token.UID)
	if err != nil {
		return Answer{}, refuse(err)
	}
	return s.certify(ctx, csr, signed)
}

// claims is what an enrolment says, before anything of it is verified.
func claims(signed *agentv1.Envelope) (*agentv1.Enrollment, error) {
	p := &agentv1.Enrollment{}
	if err := envelope.Parse(signed.GetPayload(), p); err != nil {
		return nil, fmt.Errorf("%w: %w", identity.ErrProof, err)
	}
	if err := wire.CheckEnrollment(p); err != nil {
		return nil, fmt.Errorf("%w: %w", identity.ErrProof, err)
	}
	return p, nil
}

// judgeToken says why a token is good for nothing, unless the enrolment is a repetition: its key is claimed already, or an endpoint's.
func (s *Service) judgeToken(t store.Token, known bool, claimed *agentv1.Enrollment, now time.Time) *wire.Problem {
	expired := !t.Expires.IsZero() && !now.Before(t.Expires)
	switch {
	case !known:
		return &wire.Problem{Name: wire.TokenUnknown, Detail: "There is no such enrolment token: it was deleted, or is of another cluster. Get a new one."}
	case t.Key == nil:
		return auth.NotReady("the enrolment token is not ready yet")
	case !expired && !t.Exhausted:
		return nil
	case s.repeated(t, claimed.GetCsr()):
		return nil
	case expired:
		return &wire.Problem{Name: wire.TokenExpired, Detail: "The enrolment token expired at " + t.Expires.UTC().Format(time.RFC3339) + ". Get a new one."}
	default:
		return &wire.Problem{Name: wire.TokenExhausted, Detail: "The enrolment token was used as often as it may be. Get a new one."}
	}
}

func (s *Service) repeated(t store.Token, csrDER []byte) bool {
	csr, err := x509.ParseCertificateRequest(csrDER) // its signature is checked later, with everything else
	if err != nil {
		return false
	}
	key := sha256.Sum256(csr.RawSubjectPublicKeyInfo)
	if slices.Contains(t.Claims, key) {
		return true
	}
	e, there := s.config.Source.EndpointByKey(key)
	return there && e.Keys[0] == key
}

// enter takes one of the places to wait in. Who gets none is told so at once, and when to come again, at the rate at which all are served.
func (s *Service) enter(now time.Time) (leave func(), p *wire.Problem) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting >= s.config.Waiting {
		return nil, &wire.Problem{
			Name: wire.Overloaded, RetryAfter: s.turns.Turn(s.config.Total, again, now),
			Detail: "Many machines enrol at once, each gets its turn.",
		}
	}
	s.waiting++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.waiting--
	}, nil
}

// limit counts a request whose proof is about to be verified; token is empty for a renewal.
func (s *Service) limit(from netip.Addr, token string, now time.Time) *wire.Problem {
	if wait, ok := s.perSource.Take(limit.Client(from), now); !ok {
		return throttled("from this address", wait)
	}
	if token != "" {
		if wait, ok := s.perToken.Take(token, now); !ok {
			return throttled("with this token", wait)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if wait, ok := s.total.Take(s.config.Total, now); !ok {
		return throttled("at this gateway", wait)
	}
	return nil
}

func throttled(where string, wait time.Duration) *wire.Problem {
	return &wire.Problem{Name: wire.Throttled, Detail: "Too many enrolments and renewals " + where + ".", RetryAfter: wait}
}

// certify has the manager sign, and waits for it as long as is decent.
func (s *Service) certify(ctx context.Context, csr identity.CSR, proof *agentv1.Envelope) (Answer, *wire.Problem) {
	ctx, cancel := context.WithTimeout(ctx, s.config.Wait)
	defer cancel()
	der, err := s.config.Source.Certify(ctx, csr.SPKI, csr.DER, proof)
	var denied *store.Denied
	switch {
	case err == nil:
		return Answer{Certificate: der}, nil
	case errors.As(err, &denied):
		return Answer{}, denial(denied)
	case errors.Is(err, store.ErrSlotTaken):
		return Answer{}, &wire.Problem{Name: wire.NotReady, Detail: "Try again: another certificate request is in the way.", RetryAfter: again}
	default: // not answered yet, or the API server is away: nothing is lost, the agent repeats it
		return Answer{After: again}, nil
	}
}

// denials are the problems by which a manager refuses.
var denials = []wire.Name{
	wire.TokenUnknown, wire.TokenExpired, wire.TokenExhausted, wire.ProofInvalid, wire.CSRInvalid, wire.EnrollmentDenied,
	wire.CertificateExpired, wire.CertificateSuperseded, wire.CertificateUnknown,
	wire.EndpointSuspended, wire.EndpointBlocked, wire.EndpointDecommissioned, wire.EndpointUnknown,
}

func denial(d *store.Denied) *wire.Problem {
	if name, ok := wire.NameOfReason(d.Reason); ok && slices.Contains(denials, name) {
		return &wire.Problem{Name: name, Detail: d.Message}
	}
	return &wire.Problem{Name: wire.EnrollmentDenied, Detail: "A person denied it: " + wire.CutText(d.Error(), wire.MaxText)}
}

func refuse(err error) *wire.Problem {
	if errors.Is(err, identity.ErrCSR) {
		return &wire.Problem{Name: wire.CSRInvalid, Detail: sentence(err)}
	}
	return &wire.Problem{Name: wire.ProofInvalid, Detail: sentence(err)}
}

func sentence(err error) string { return wire.CutText(err.Error(), wire.MaxText) + "." }
