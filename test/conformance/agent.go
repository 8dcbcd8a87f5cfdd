package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strconv"
	"time"
)

// agent is an agent as the document describes it, but that it keeps its state in memory.
type agent struct {
	server   *url.URL
	token    token
	hostname string

	trust       *trust
	verified    *client // of the server, without a certificate of ours
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	identity    string
	mine        *client // with our certificate

	instance string
	epoch    number
	attempts number // at a session, in this start
	over     number // the last of them that is over
	clock    clock
	assigned assignment
	policy   policy
	journal  journal
	offered  envelope // the newest offer of content that was taken up
	file     artifact // of it
	content  releaseState
	send     []string
	rejected number
	last     string
	started  time.Time
}

// clock is the signed time: when the newest beacon was issued, and when it came.
type clock struct{ issued, came time.Time }

func (c clock) now() time.Time {
	if c.issued.IsZero() {
		return time.Now()
	}
	return c.issued.Add(time.Since(c.came))
}

// start is a start of the agent: an epoch more, another instance.
func (a *agent) start() {
	a.epoch++
	a.instance, a.started = randomHex(16), time.Now()
	a.attempts, a.over = 0, 0
	a.send = []string{"SECTION_CAPABILITIES", "SECTION_INVENTORY"}
}

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

func (a *agent) tls() *tls.Config {
	return &tls.Config{RootCAs: a.trust.serverCA, Time: func() time.Time { return a.clock.now() }}
}

// askTrust asks for bundles, over a connection of its own that verifies nothing.
func (a *agent) askTrust(ctx context.Context, after uint64) ([]envelope, error) {
	c := newClient(a.server, &tls.Config{InsecureSkipVerify: true}) // what comes proves itself
	defer c.close()
	var all []envelope
	for {
		answer, err := c.do(ctx, call{method: http.MethodGet, path: "/agent/v1/trust", query: "after=" + strconv.FormatUint(after, 10), accept: typeJSON}, 256<<10)
		if err != nil {
			return nil, err
		}
		var reply trustReply
		if err := answer.read(&reply); err != nil {
			return nil, err
		}
		all = append(all, reply.Bundles...)
		if len(reply.Bundles) < 8 {
			return all, nil
		}
		newest, err := versionOf(&reply.Bundles[7])
		if err != nil || newest <= after {
			return nil, fmt.Errorf("the bundles do not go on: %w", err)
		}
		after = newest
	}
}

// meet establishes trust from the token's pin, and from there a verified connection.
func (a *agent) meet(ctx context.Context) error {
	chain, err := a.askTrust(ctx, 0)
	if err != nil {
		return err
	}
	if a.trust, err = follow(a.token.pin, chain); err != nil {
		return err
	}
	if a.trust.version < a.token.trustVersion {
		return fmt.Errorf("the newest bundle has version %d, the token knew %d", a.trust.version, a.token.trustVersion)
	}
	a.verified = newClient(a.server, a.tls())
	return nil
}

// enrollment is the proof that asks for an identity, changed by change.
func (a *agent) enrollment(key crypto.Signer, change func(*enrollment)) enrollment {
	mac := hmac.New(sha256.New, []byte("conformance "+a.hostname))
	mac.Write([]byte("rollcall"))
	p := enrollment{
		FleetID: a.trust.fleetID, TokenUID: a.token.uid, CSR: newCSR(key), Hostname: a.hostname, MachineID: hex.EncodeToString(mac.Sum(nil)),
		AgentVersion: agentVersion, CreatedAt: time.Now().UTC().Format(time.RFC3339Nano),
	}
	change(&p)
	return p
}

func newKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err) // no randomness
	}
	return key
}

func newCSR(key crypto.Signer) []byte {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		panic(err) // a key of our own
	}
	return der
}

// ask posts a proof until it is answered.
func (a *agent) ask(ctx context.Context, path string, request any) (*answer, error) {
	return a.verified.do(ctx, call{method: http.MethodPost, path: path, body: encode(request)}, 4<<10)
}

// accept checks a certificate for key, and takes it.
func (a *agent) accept(got *answer, key *ecdsa.PrivateKey) error {
	var reply certificateReply
	if err := got.read(&reply); err != nil {
		return err
	}
	cert, err := x509.ParseCertificate(reply.Certificate)
	if err != nil {
		return err
	}
	id, err := a.judge(cert, key)
	if err != nil {
		return err
	}
	if a.identity != "" && id != a.identity {
		return fmt.Errorf("the identity changed from %s to %s", a.identity, id)
	}
	if a.mine != nil {
		a.mine.close()
	}
	a.certificate, a.key, a.identity = cert, key, id
	a.mine = a.as(cert, key)
	return nil
}

func (a *agent) as(cert *x509.Certificate, key crypto.PrivateKey) *client {
	config := a.tls()
	config.Certificates = []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}
	return newClient(a.server, config)
}

func (a *agent) judge(cert *x509.Certificate, key *ecdsa.PrivateKey) (identity string, err error) {
	prefix := "spiffe://" + a.trust.fleetID + "/endpoint/"
	switch {
	case !key.PublicKey.Equal(cert.PublicKey):
		return "", errors.New("the certificate is for another key")
	case len(cert.URIs) != 1 || len(cert.DNSNames)+len(cert.IPAddresses)+len(cert.EmailAddresses) > 0:
		return "", errors.New("the certificate must have one URI and no other name")
	case len(cert.URIs[0].String()) != len(prefix)+36 || cert.URIs[0].String()[:len(prefix)] != prefix:
		return "", fmt.Errorf("the certificate names %s, want %s<identity>", cert.URIs[0], prefix)
	case !slices.ContainsFunc(a.trust.agentCA, func(ca *x509.Certificate) bool { return cert.CheckSignatureFrom(ca) == nil }):
		return "", errors.New("no agent CA of the newest bundle issued the certificate")
	case !slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageClientAuth):
		return "", errors.New("the certificate is not for client authentication")
	}
	return cert.URIs[0].String()[len(prefix):], nil
}

// beat is the heartbeat that is due.
func (a *agent) beat() heartbeat {
	h := heartbeat{
		Agent:  &agentInfo{Version: agentVersion, Platform: runtime.GOOS + "/" + runtime.GOARCH, InstanceID: a.instance, Epoch: a.epoch, Session: a.over, JournalID: a.journal.id, JournalCreatedAt: a.journal.created},
		SentAt: time.Now().UTC().Format(time.RFC3339Nano), TrustVersion: number(a.trust.version), AssignmentIssuedAt: a.assigned.IssuedAt,
		PolicyID: a.policy.PolicyID, PolicyRevision: a.policy.Revision, Vitals: &vitals{Uptime: seconds(time.Since(a.started))},
		OpenActions: a.journal.open(), CapabilitiesTag: "1", InventoryTag: "1", RejectedOrders: a.rejected, LastRejection: a.last,
	}
	if a.content.Sequence > 0 {
		h.Content = &releaseState{Sequence: a.content.Sequence, Phase: a.content.Phase}
	}
	if !a.clock.issued.IsZero() {
		h.ClockSkew, h.BeaconAge = seconds(time.Since(a.clock.now())), seconds(time.Since(a.clock.came))
	}
	if slices.Contains(a.send, "SECTION_CAPABILITIES") {
		h.Capabilities = &capabilities{Names: a.capabilities()}
	}
	if slices.Contains(a.send, "SECTION_INVENTORY") {
		h.Inventory = &inventory{Hostname: a.hostname, OSName: runtime.GOOS, Arch: runtime.GOARCH}
	}
	return h
}

func (a *agent) capabilities() []string { return []string{performHeartbeat, terminateProcess} }

// heartbeat sends one and obeys the answer. It returns the orders that came.
func (a *agent) heartbeat(ctx context.Context) (orders int, err error) {
	got, err := a.mine.do(ctx, call{method: http.MethodPost, path: "/agent/v1/heartbeat", body: encode(a.beat())}, 1<<20)
	if err != nil {
		return 0, err
	}
	var reply heartbeatReply
	if err := got.read(&reply); err != nil {
		return 0, err
	}
	return len(reply.Orders), a.obey(ctx, &reply)
}

func (a *agent) obey(ctx context.Context, reply *heartbeatReply) error {
	a.send = reply.Send
	if err := a.tell(ctx, reply.Beacon); err != nil {
		return err
	}
	for _, x := range []string{"assignment", "policy", "cancel", "action", "offer"} {
		for i := range reply.Orders {
			if reply.Orders[i].PayloadType != payloadType(x) {
				continue
			}
			if err := a.take(x, &reply.Orders[i]); err != nil {
				a.rejected++
				a.last = "Refused"
				return fmt.Errorf("an order that this agent must refuse: %w", err)
			}
		}
	}
	return nil
}

// tell sets the clock by a beacon, and asks for the trust that it names.
func (a *agent) tell(ctx context.Context, e *envelope) error {
	var b beacon
	err := open(e, "beacon", &b, a.trust.orders)
	if err != nil || uint64(b.TrustVersion) > a.trust.version {
		chain, askErr := a.askTrust(ctx, a.trust.version)
		if askErr != nil {
			return errors.Join(err, askErr)
		}
		for i := range chain {
			next, err := a.trust.next(&chain[i])
			if err != nil {
				return err
			}
			a.trust = next
		}
		err = open(e, "beacon", &b, a.trust.orders)
	}
	switch {
	case err != nil:
		return err
	case b.FleetID != a.trust.fleetID:
		return errors.New("the beacon is another fleet's")
	}
	issued, err := parseTime(b.IssuedAt)
	if err == nil && issued.After(a.clock.issued) {
		a.clock = clock{issued, time.Now()}
	}
	if err == nil && a.journal.created == "" {
		a.journal.created = b.IssuedAt
	}
	return err
}

func (a *agent) take(x string, e *envelope) error {
	switch x {
	case "action":
		return a.takeAction(e)
	case "cancel":
		return a.takeCancel(e)
	case "offer":
		return a.takeOffer(e)
	case "policy":
		var p policy
		if err := open(e, x, &p, a.trust.orders); err != nil {
			return err
		}
		if p.FleetID != a.trust.fleetID || p.PolicyID != a.assigned.PolicyID || p.PolicyID == a.policy.PolicyID && p.Revision < a.policy.Revision {
			return fmt.Errorf("policy %s of fleet %s, revision %d", p.PolicyID, p.FleetID, p.Revision)
		}
		a.policy = p
		return nil
	}
	var m assignment
	if err := open(e, x, &m, a.trust.orders); err != nil {
		return err
	}
	issued, err := parseTime(m.IssuedAt)
	own, _ := parseTime(a.assigned.IssuedAt) // the zero time for none
	if err != nil || m.FleetID != a.trust.fleetID || m.IdentityID != a.identity || issued.Before(own) {
		return fmt.Errorf("assignment for %s of fleet %s at %s", m.IdentityID, m.FleetID, m.IssuedAt)
	}
	a.assigned = m
	if m.PolicyID == "" {
		a.policy = policy{}
	}
	return nil
}

// obeysAll tells whether the policy that is assigned is the one in use.
func (a *agent) obeysAll() bool {
	return a.assigned.IssuedAt != "" && a.policy.PolicyID == a.assigned.PolicyID
}

// interval of heartbeats.
func (a *agent) interval() time.Duration {
	if d, err := time.ParseDuration(a.policy.HeartbeatInterval); err == nil {
		return d
	}
	return 5 * time.Minute
}

// renewal is the proof that asks for the next certificate.
func (a *agent) renewal(key crypto.Signer) renewal {
	return renewal{FleetID: a.trust.fleetID, IdentityID: a.identity, Certificate: a.certificate.Raw, CSR: newCSR(key)}
}
