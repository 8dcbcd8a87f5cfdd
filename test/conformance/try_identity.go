package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"time"
)

func (s *suite) tryEnrolment(ctx context.Context) error {
	const path = "/agent/v1/enroll"
	key := newKey()
	stranger := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return err
	}
	with := func(change func(*enrollment)) envelope {
		return seal(s.token.key, "enrollment", s.enrollment(key, change))
	}
	good := with(func(*enrollment) {})
	bent := good
	bent.Payload = append(append([]byte{}, good.Payload...), ' ')
	for _, r := range []struct {
		what string
		e    envelope
		name string
	}{
		{"a token that there is not", seal(stranger, "enrollment", s.enrollment(key, func(p *enrollment) { p.TokenUID = "00000000-0000-4000-8000-000000000000" })), "token-unknown"},
		{"a proof by another key than the token's", seal(stranger, "enrollment", s.enrollment(key, func(*enrollment) {})), "proof-invalid"},
		{"a proof that was changed on the way", bent, "proof-invalid"},
		{"a proof for another fleet", with(func(p *enrollment) { p.FleetID = "00000000-0000-4000-8000-000000000000" }), "proof-invalid"},
		{"a proof with a host name too long", with(func(p *enrollment) { p.Hostname = strings.Repeat("h", 254) }), "proof-invalid"},
		{"a proof of another type", seal(s.token.key, "renewal", s.enrollment(key, func(*enrollment) {})), "malformed"},
		{"a certificate request for P-384", with(func(p *enrollment) { p.CSR = newCSR(p384) }), "csr-invalid"},
		{"a certificate request whose signature is damaged", with(func(p *enrollment) { p.CSR[len(p.CSR)-1] ^= 1 }), "csr-invalid"},
	} {
		a, err := s.ask(ctx, path, enrollRequest{r.e})
		s.expect(r.what, a, err, r.name)
	}

	request := enrollRequest{good}
	a, err := s.ask(ctx, path, request)
	if err == nil {
		err = s.accept(a, key)
	}
	if err := s.must("enrol", err); err != nil {
		return err
	}
	s.say("        identity %s, certificate until %s", s.identity, s.certificate.NotAfter.UTC().Format(time.RFC3339))
	if a, err = s.ask(ctx, path, request); err == nil {
		err = s.accept(a, key)
	}
	s.check("the identical request is the same enrolment", err)
	return nil
}

func (s *suite) tryRenewal(ctx context.Context) error {
	const path = "/agent/v1/renew"
	key := newKey()
	old, oldKey := s.certificate, s.key
	a, err := s.ask(ctx, path, renewRequest{seal(key, "renewal", s.renewal(key))})
	s.expect("a renewal signed by the new key", a, err, "proof-invalid")
	p := s.renewal(key)
	p.IdentityID = "00000000-0000-4000-8000-000000000000"
	a, err = s.ask(ctx, path, renewRequest{seal(s.key, "renewal", p)})
	s.expect("a renewal for another identity", a, err, "proof-invalid")

	request := renewRequest{seal(s.key, "renewal", s.renewal(key))}
	if a, err = s.ask(ctx, path, request); err == nil {
		err = s.accept(a, key)
	}
	if err := s.must("renew, without a client certificate", err); err != nil {
		return err
	}
	s.say("        certificate until %s", s.certificate.NotAfter.UTC().Format(time.RFC3339))
	_, err = s.heartbeat(ctx)
	s.check("a heartbeat with the new certificate", err)
	if a, err = s.ask(ctx, path, request); err == nil {
		err = s.accept(a, key)
	}
	s.check("the identical renewal is answered again", err)

	before := s.as(old, oldKey)
	defer before.close()
	if a, err = before.do(ctx, call{method: http.MethodPost, path: "/agent/v1/heartbeat", body: encode(s.beat())}, 1<<20); err == nil {
		err = a.read(&heartbeatReply{})
	}
	s.check("the certificate from before is good for a day", err)
	return nil
}

// selfSigned is a certificate that no CA of the fleet issued, with the name of one that was.
func (s *suite) selfSigned() (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key := newKey()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), URIs: s.certificate.URIs, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return cert, key, err
}

// tryClones says what machines with one identity say. It leaves the conflict behind: only a person can end it.
func (s *suite) tryClones(ctx context.Context) error {
	first, firstEpoch := s.instance, s.epoch
	as := func(instance string, epoch number) (*answer, error) {
		h := s.beat()
		h.Agent.InstanceID, h.Agent.Epoch = instance, epoch
		return s.post(ctx, call{body: encode(h)})
	}
	s.start()
	_, err := s.heartbeat(ctx)
	s.check("a restart, with a higher epoch", err)
	a, err := as(first, firstEpoch)
	s.expect("a late heartbeat of the start before", a, err, "session-replaced")
	orders, err := s.ordersForNewcomer(ctx)
	if err == nil && orders == 0 {
		err = errors.New("no order came")
	}
	s.check("an agent that has no orders gets them", err)
	a, err = as(randomHex(16), s.epoch)
	s.expect("another instance with the same epoch", a, err, "identity-conflict")
	s.check("the one that was there first may beat on, and gets no orders", s.beatsWithoutOrders(ctx))
	if err := s.tryClonesOnSessions(ctx); err != nil {
		return err
	}
	s.start()
	s.check("a restart may beat, and gets no orders", s.beatsWithoutOrders(ctx))
	return nil
}

// ordersForNewcomer says in a heartbeat that it has no orders at all, and returns how many come.
func (s *suite) ordersForNewcomer(ctx context.Context) (int, error) {
	h := s.beat()
	h.AssignmentIssuedAt, h.PolicyID, h.PolicyRevision = "", "", 0
	a, err := s.post(ctx, call{body: encode(h)})
	if err != nil {
		return 0, err
	}
	var reply heartbeatReply
	err = a.read(&reply)
	return len(reply.Orders), err
}

func (s *suite) beatsWithoutOrders(ctx context.Context) error {
	orders, err := s.ordersForNewcomer(ctx)
	if err == nil && orders > 0 {
		err = fmt.Errorf("%d orders came", orders)
	}
	return err
}
