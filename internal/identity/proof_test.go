package identity

import (
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net"
	"net/url"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
)

func mustPool(cas ...authority) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, ca := range cas {
		pool.AddCert(ca.cert)
	}
	return pool
}

func enrollment(csr []byte) *agentv1.Enrollment {
	return &agentv1.Enrollment{
		FleetId: fleetA, TokenUid: tokenA, Csr: csr, Hostname: "laptop", MachineId: HashMachineID("m"), AgentVersion: "8.0.0",
		CreatedAt: timestamppb.New(issued),
	}
}

func TestOpenEnrollment(t *testing.T) {
	token, agent := edKey(t), ecKey(t, elliptic.P256())
	csr := csrOf(t, agent)
	p, got, err := OpenEnrollment(seal(t, token, envelope.Enrollment, enrollment(csr)), token.Public(), fleetA, tokenA)
	if err != nil || p.GetHostname() != "laptop" || !got.Key.Equal(agent.Public()) || string(got.SPKI) != string(spkiOf(t, agent)) {
		t.Fatalf("%v, %+v, %v", p, got, err)
	}
	if uid, err := EnrollmentToken(seal(t, token, envelope.Enrollment, enrollment(csr))); err != nil || uid != tokenA {
		t.Errorf("the token is %q, %v", uid, err)
	}

	with := func(change func(*agentv1.Enrollment)) *agentv1.Envelope {
		p := enrollment(csr)
		change(p)
		return seal(t, token, envelope.Enrollment, p)
	}
	other := csrOf(t, ecKey(t, elliptic.P256()))
	swapped := with(func(*agentv1.Enrollment) {})
	swapped.Payload = with(func(p *agentv1.Enrollment) { p.Csr = other }).GetPayload()
	for name, tc := range map[string]struct {
		e    *agentv1.Envelope
		want error
	}{
		"signed by another token":        {seal(t, edKey(t), envelope.Enrollment, enrollment(csr)), ErrProof},
		"for another fleet":              {with(func(p *agentv1.Enrollment) { p.FleetId = fleetB }), ErrProof},
		"for another token":              {with(func(p *agentv1.Enrollment) { p.TokenUid = tokenB }), ErrProof},
		"with another request put in":    {swapped, ErrProof},
		"bent":                           {bend(with(func(*agentv1.Enrollment) {})), ErrProof},
		"of another type":                {seal(t, token, envelope.Renewal, enrollment(csr)), ErrProof},
		"that is missing":                {nil, ErrProof},
		"without a host name":            {with(func(p *agentv1.Enrollment) { p.Hostname = "" }), ErrProof},
		"with a host name too long":      {with(func(p *agentv1.Enrollment) { p.Hostname = strings.Repeat("a", 254) }), ErrProof},
		"with an escape in the name":     {with(func(p *agentv1.Enrollment) { p.Hostname = "a\x1b[2J" }), ErrProof},
		"with a version that is none":    {with(func(p *agentv1.Enrollment) { p.AgentVersion = "latest" }), ErrProof},
		"whose request is damaged":       {with(func(p *agentv1.Enrollment) { p.Csr = damaged(csr) }), ErrCSR},
		"whose request is no request":    {with(func(p *agentv1.Enrollment) { p.Csr = []byte("x") }), ErrCSR},
		"whose request is for P-384":     {with(func(p *agentv1.Enrollment) { p.Csr = csrOf(t, ecKey(t, elliptic.P384())) }), ErrCSR},
		"whose request is for Ed25519":   {with(func(p *agentv1.Enrollment) { p.Csr = csrOf(t, edKey(t)) }), ErrCSR},
		"whose request is for RSA":       {with(func(p *agentv1.Enrollment) { p.Csr = csrOf(t, rsaKey(t)) }), ErrCSR},
		"whose request is over 1 KiB":    {with(func(p *agentv1.Enrollment) { p.Csr = make([]byte, 1<<10+1) }), ErrProof},
		"with a request and a tail":      {with(func(p *agentv1.Enrollment) { p.Csr = append(append([]byte{}, csr...), 0) }), ErrCSR},
		"with a payload that is no JSON": {rawEnrollment(t, token, "{"), ErrProof},
	} {
		if _, _, err := OpenEnrollment(tc.e, token.Public(), fleetA, tokenA); !errors.Is(err, tc.want) {
			t.Errorf("an enrolment %s: %v, want %v", name, err, tc.want)
		}
	}
	for name, e := range map[string]*agentv1.Envelope{
		"that is missing": nil, "of another type": seal(t, token, envelope.Renewal, enrollment(csr)), "without JSON": rawEnrollment(t, token, "["),
		"with a token that is no UID": with(func(p *agentv1.Enrollment) { p.TokenUid = "../x" }),
	} {
		if uid, err := EnrollmentToken(e); !errors.Is(err, ErrProof) || uid != "" {
			t.Errorf("an enrolment %s claims the token %q: %v", name, uid, err)
		}
	}
}

func rawEnrollment(t *testing.T, key crypto.Signer, payload string) *agentv1.Envelope {
	t.Helper()
	e, err := envelope.Sign(key, envelope.Enrollment, []byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func damaged(csr []byte) []byte {
	csr = append([]byte{}, csr...)
	csr[len(csr)-1] ^= 1
	return csr
}

func rsaKey(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestOpenRenewal(t *testing.T) {
	ca := newAuthority(t, "agent")
	oldKey, newKey := ecKey(t, elliptic.P256()), ecKey(t, elliptic.P256())
	cert := ca.leaf(t, oldKey.Public(), nil, URI(fleetA, machineA))
	renewal := func(change func(*agentv1.Renewal)) *agentv1.Renewal {
		p := &agentv1.Renewal{
			FleetId: fleetA, IdentityId: machineA, Certificate: cert.Raw, Csr: csrOf(t, newKey), CreatedAt: timestamppb.New(issued),
		}
		change(p)
		return p
	}
	by := func(key crypto.Signer, change func(*agentv1.Renewal)) *agentv1.Envelope {
		return seal(t, key, envelope.Renewal, renewal(change))
	}
	same := func(*agentv1.Renewal) {}
	got, err := OpenRenewal(by(oldKey, same), fleetA)
	if err != nil || !got.Certificate.Equal(cert) || !got.CSR.Key.Equal(newKey.Public()) || got.Renewal.GetIdentityId() != machineA {
		t.Fatalf("%+v, %v", got, err)
	}

	rsaOwner := rsaKey(t)
	p384 := ecKey(t, elliptic.P384())
	instead := func(key crypto.Signer, change func(*x509.Certificate), uris ...*url.URL) *agentv1.Envelope {
		other := ca.leaf(t, key.Public(), change, uris...)
		return by(key, func(p *agentv1.Renewal) { p.Certificate = other.Raw })
	}
	for name, tc := range map[string]struct {
		e    *agentv1.Envelope
		want error
	}{
		"signed by the new key":             {by(newKey, same), ErrProof},
		"bent":                              {bend(by(oldKey, same)), ErrProof},
		"of another type":                   {seal(t, oldKey, envelope.Enrollment, renewal(same)), ErrProof},
		"that is missing":                   {nil, ErrProof},
		"for another fleet":                 {by(oldKey, func(p *agentv1.Renewal) { p.FleetId = fleetB }), ErrProof},
		"for another identity":              {by(oldKey, func(p *agentv1.Renewal) { p.IdentityId = machineB }), ErrProof},
		"with a certificate for another":    {instead(oldKey, nil, URI(fleetA, machineB)), ErrProof},
		"with another fleet's certificate":  {instead(oldKey, nil, URI(fleetB, machineA)), ErrProof},
		"with a certificate without name":   {instead(oldKey, nil), ErrProof},
		"with a certificate of two names":   {instead(oldKey, nil, URI(fleetA, machineA), URI(fleetA, machineB)), ErrProof},
		"with a certificate for a host too": {instead(oldKey, func(c *x509.Certificate) { c.DNSNames = []string{"gw"} }, URI(fleetA, machineA)), ErrProof},
		"with a certificate for P-384":      {instead(p384, nil, URI(fleetA, machineA)), ErrProof},
		"with a certificate for RSA": {by(oldKey, func(p *agentv1.Renewal) {
			p.Certificate = ca.leaf(t, rsaOwner.Public(), nil, URI(fleetA, machineA)).Raw
		}), ErrProof},
		"with no certificate":             {by(oldKey, func(p *agentv1.Renewal) { p.Certificate = nil }), ErrProof},
		"with a certificate that is none": {by(oldKey, func(p *agentv1.Renewal) { p.Certificate = []byte("x") }), ErrProof},
		"whose request is damaged":        {by(oldKey, func(p *agentv1.Renewal) { p.Csr = damaged(p.GetCsr()) }), ErrCSR},
		"without a request":               {by(oldKey, func(p *agentv1.Renewal) { p.Csr = nil }), ErrProof},
	} {
		if got, err := OpenRenewal(tc.e, fleetA); !errors.Is(err, tc.want) {
			t.Errorf("a renewal %s: %+v, %v; want %v", name, got, err, tc.want)
		}
	}
}

func TestParseURI(t *testing.T) {
	ca, key := newAuthority(t, "agent"), ecKey(t, elliptic.P256())
	fleetID, id, err := ParseURI(ca.leaf(t, key.Public(), nil, URI(fleetA, machineA)))
	if err != nil || fleetID != fleetA || id != machineA {
		t.Errorf("%s, %s, %v", fleetID, id, err)
	}
	if got, want := URI(fleetA, machineA).String(), "spiffe://"+fleetA+"/endpoint/"+machineA; got != want {
		t.Errorf("the name is %s, want %s", got, want)
	}
	for _, s := range []string{
		"https://" + fleetA + "/endpoint/" + machineA, "spiffe://" + fleetA + "/gateway/" + machineA, "spiffe://" + fleetA + "/endpoint/",
		"spiffe://" + fleetA + "/endpoint/" + machineA + "/x", "spiffe://" + fleetA + "/endpoint/" + strings.ToUpper(machineA),
		"spiffe:///endpoint/" + machineA, "spiffe://fleet/endpoint/" + machineA, "spiffe://" + fleetA + ":1/endpoint/" + machineA,
		"spiffe://u@" + fleetA + "/endpoint/" + machineA, "spiffe://" + fleetA + "/endpoint/" + machineA + "?x", "spiffe://" + fleetA + "/endpoint/" + machineA + "#x",
		"spiffe:" + fleetA,
	} {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		if f, id, err := ParseURI(&x509.Certificate{URIs: []*url.URL{u}}); err == nil {
			t.Errorf("%s is read as fleet %s, identity %s", s, f, id)
		}
	}
	for name, cert := range map[string]*x509.Certificate{
		"an IP address":    {URIs: []*url.URL{URI(fleetA, machineA)}, IPAddresses: []net.IP{{127, 0, 0, 1}}},
		"an email address": {URIs: []*url.URL{URI(fleetA, machineA)}, EmailAddresses: []string{"a@b"}},
	} {
		if _, _, err := ParseURI(cert); err == nil {
			t.Errorf("a certificate with %s too is accepted", name)
		}
	}
}

func TestParseCSRTakesOnlyTheKey(t *testing.T) {
	key := ecKey(t, elliptic.P256())
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "admin"}, DNSNames: []string{"gateway"}, URIs: []*url.URL{URI(fleetA, machineB)},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseCSR(der)
	if err != nil || !got.Key.Equal(key.Public()) || string(got.DER) != string(der) {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := ParseCSR(make([]byte, MaxCSRBytes+1)); !errors.Is(err, ErrCSR) || !strings.Contains(err.Error(), "1024") {
		t.Errorf("a request one byte too long: %v", err)
	}
}

// Values computed with openssl.
func TestDerivedNames(t *testing.T) {
	spki := []byte("spki")
	for _, tc := range []struct{ name, got, want string }{
		{"key hash", KeyHash(spki), "6feecc8c16c5551d9feb3eb5f77e2da773bf68bd9ef9c52927ceb2c86e56892b"},
		{"agent slot", AgentSlot(spki), "rollcall-agent-6fe"},
		{"gateway slot", GatewaySlot(spki), "rollcall-gateway-6f"},
		{"machine ID", HashMachineID("0123456789abcdef\n"), "bbf6e8d62bff105e793516145043828d53630a35f1946d7979f74f10b730ff19"},
	} {
		if tc.got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, tc.got, tc.want)
		}
	}
}
