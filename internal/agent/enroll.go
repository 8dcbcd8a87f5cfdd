package agent

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/agent/problem"
	"github.com/rollcall-dev/rollcall/internal/agent/state"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/identity"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// enroll gets an identity. Whatever is sent is on disk before, so that the same is sent again after a crash or a lost answer.
func (e *Engine) enroll(ctx context.Context) (time.Duration, error) {
	token, err := e.token()
	if err != nil {
		return 0, err
	}
	if err := e.ensureTrust(ctx, token.TrustVersion); err != nil {
		return 0, err
	}
	pending, err := e.Dir.Pending(state.Enrollment)
	if err != nil {
		return 0, problem.New(problem.StateUnwritable, err.Error())
	}
	if !enrollsWith(pending, e.book.Trust.FleetID, token) {
		if err := e.askForIdentity(pending, token); err != nil {
			return 0, err
		}
	}
	der, err := e.connection().Enroll(ctx, e.moment(), pending.Request)
	if err != nil {
		e.forget(state.Enrollment, err)
		return 0, err
	}
	if err := e.become(ctx, der, pending.Key); err != nil {
		return 0, err
	}
	if err := e.Dir.ForgetToken(); err != nil {
		e.notWritten(err)
	}
	e.Log.Info("enrolled", "fleet", e.id.FleetID)
	return never, nil
}

// token is the one that was given, or the one that is kept; it is kept, with its pin, until it has served.
func (e *Engine) token() (identity.Token, error) {
	token := e.Token
	if token.UID == "" {
		kept, ok, err := e.Dir.Token()
		if err != nil {
			return token, problem.New(problem.StateUnwritable, err.Error())
		}
		if !ok {
			return token, problem.New(problem.TokenMissing, "There is no identity in "+e.Dir.Path()+", and no token to get one with.")
		}
		token = kept
	} else if !e.tokenKept {
		if err := e.Dir.SaveToken(token); err != nil {
			return token, problem.New(problem.StateUnwritable, err.Error())
		}
	}
	if token.RootPin != e.pin { // another fleet than before, or the first
		if err := e.Dir.SaveRootPin(token.RootPin); err != nil {
			return token, problem.New(problem.StateUnwritable, err.Error())
		}
		e.reconnect()
		e.pin, e.book.Trust, e.chain = token.RootPin, nil, nil
	}
	e.Token, e.tokenKept = token, true
	return token, nil
}

// enrollsWith tells whether a request was made for this fleet, token and key.
func enrollsWith(p *state.Pending, fleetID string, token identity.Token) bool {
	m, payload := &agentv1.EnrollRequest{}, &agentv1.Enrollment{}
	return p.Request != nil && m.UnmarshalVT(p.Request) == nil && envelope.Parse(m.GetEnrollment().GetPayload(), payload) == nil &&
		payload.GetFleetId() == fleetID && payload.GetTokenUid() == token.UID && asksFor(payload.GetCsr(), p.Key)
}

func asksFor(der []byte, key *ecdsa.PrivateKey) bool {
	csr, err := identity.ParseCSR(der)
	return err == nil && key.PublicKey.Equal(csr.Key)
}

func (e *Engine) askForIdentity(p *state.Pending, token identity.Token) error {
	csr, err := newCSR(p.Key)
	if err != nil {
		return err
	}
	machine, _ := e.Host.IDs()
	payload := &agentv1.Enrollment{
		FleetId: e.book.Trust.FleetID, TokenUid: token.UID, Csr: csr, Hostname: cmp.Or(e.Host.Hostname(), "unnamed"), MachineId: machine,
		AgentVersion: e.Version, CreatedAt: timestamppb.New(e.Host.Clock().Wall),
	}
	sealed, err := envelope.Seal(token.Key(), envelope.Enrollment, payload)
	if err != nil {
		return err
	}
	return e.saveRequest(p, state.Enrollment, &agentv1.EnrollRequest{Enrollment: sealed})
}

func (e *Engine) saveRequest(p *state.Pending, name string, m wire.Message) (err error) {
	if p.Request, err = wire.Protobuf.Marshal(m); err != nil {
		return err
	}
	if err := e.Dir.SaveRequest(name, p.Request); err != nil {
		return problem.New(problem.StateUnwritable, err.Error())
	}
	return nil
}

func newCSR(key *ecdsa.PrivateKey) ([]byte, error) {
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
}

// forget drops what the server will never take: the key too if it is what was refused.
func (e *Engine) forget(request string, err error) {
	switch problem.Of(err).Name {
	case wire.CSRInvalid:
		err = e.Dir.DropPending()
	case wire.ProofInvalid, wire.Malformed:
		err = e.Dir.DropRequest(request)
	default:
		return
	}
	if err != nil {
		e.notWritten(err)
	}
}

// become makes a certificate the agent's identity, if it is what was asked for.
func (e *Engine) become(ctx context.Context, der []byte, key *ecdsa.PrivateKey) error {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return problem.New(problem.CertificateRefused, "The certificate that came does not parse: "+err.Error()+".")
	}
	if err := e.fits(cert, key); err != nil {
		e.tryRefreshTrust(ctx) // a new agent CA may be ahead of the trust that is known
		if err := e.fits(cert, key); err != nil {
			return err
		}
	}
	id, err := e.Dir.Commit(cert)
	if id == nil {
		return problem.New(problem.StateUnwritable, err.Error())
	}
	if err != nil { // it is decided, and finished at the next start
		e.notWritten(err)
	}
	e.reconnect()
	if e.id == nil {
		e.be(id)
		if err := e.keepOwnActions(); err != nil {
			e.notWritten(err)
		}
	}
	e.id = id
	e.beat.due, e.beat.failures = e.boot(), 0
	e.session.Hurry(e.boot())
	e.renewal.due = never
	e.save()
	return nil
}

// fits checks a certificate: this key, this fleet, this identity once there is one, and an issuer of the trust.
func (e *Engine) fits(cert *x509.Certificate, key *ecdsa.PrivateKey) error {
	fleet, id, err := identity.ParseURI(cert)
	switch {
	case err != nil:
		return problem.New(problem.CertificateRefused, "The certificate that came is no agent's: "+err.Error()+".")
	case !key.PublicKey.Equal(cert.PublicKey):
		return problem.New(problem.CertificateRefused, "The certificate that came is for another key.")
	case fleet != e.book.Trust.FleetID || e.id != nil && id != e.id.ID:
		return problem.New(problem.CertificateRefused, "The certificate that came is for another fleet or identity.")
	case !e.book.Trust.IssuedByAgentCA(cert):
		return problem.New(problem.CertificateRefused, "The certificate that came was not issued by an agent CA of this fleet.")
	}
	return nil
}
