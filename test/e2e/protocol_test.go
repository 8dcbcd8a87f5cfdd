package e2e

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/identity"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// machine speaks the protocol by hand, so that it can say what no honest agent would.
type machine struct {
	address string
	token   identity.Token
	trust   *identity.Trust
	key     *ecdsa.PrivateKey
	cert    []byte
}

// newMachine has a key of its own and the trust that the token's pin leads to.
func newMachine(t testing.TB, address string, token identity.Token) *machine {
	t.Helper()
	m := &machine{address: address, token: token, key: newKey(t)}
	reply := &agentv1.TrustReply{}
	if status, body := m.do(t, http.MethodGet, wire.PathTrust+"?after=0", nil, reply); status != http.StatusOK {
		t.Fatalf("trust: %d %s", status, body)
	}
	trust, err := identity.OpenTrust(token.RootPin, reply.GetBundles())
	if err != nil {
		t.Fatal(err)
	}
	m.trust = trust
	return m
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newCSR(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

// enrollment is what an honest machine signs.
func (m *machine) enrollment(t testing.TB, hostname string) *agentv1.Enrollment {
	t.Helper()
	return &agentv1.Enrollment{
		FleetId: m.trust.FleetID, TokenUid: m.token.UID, Csr: newCSR(t, m.key), Hostname: hostname,
		MachineId: identity.HashMachineID(hostname), AgentVersion: "8.0.0", CreatedAt: timestamppb.Now(),
	}
}

func seal(t testing.TB, signer crypto.Signer, kind envelope.Type, m proto.Message) *agentv1.Envelope {
	t.Helper()
	e, err := envelope.Seal(signer, kind, m)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// enroll sends an enrolment until it is answered with something else than 202.
func (m *machine) enroll(t testing.TB, e *agentv1.Envelope) *wire.Problem {
	t.Helper()
	return m.certify(t, wire.PathEnroll, &agentv1.EnrollRequest{Enrollment: e})
}

// renew sends a renewal likewise.
func (m *machine) renew(t testing.TB, e *agentv1.Envelope) *wire.Problem {
	t.Helper()
	return m.certify(t, wire.PathRenew, &agentv1.RenewRequest{Renewal: e})
}

func (m *machine) certify(t testing.TB, path string, req proto.Message) *wire.Problem {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for time.Now().Before(deadline) {
		reply := &agentv1.CertificateReply{}
		status, body := m.do(t, http.MethodPost, path, req, reply)
		switch status {
		case http.StatusOK:
			m.cert = reply.GetCertificate()
			return nil
		case http.StatusAccepted, http.StatusServiceUnavailable, http.StatusTooManyRequests:
			<-time.After(50 * time.Millisecond)
		default:
			return problemOf(t, status, body)
		}
	}
	t.Fatalf("%s was not answered in time", path)
	return nil
}

// beat sends a heartbeat on a connection of its own.
func (m *machine) beat(t testing.TB, hb *agentv1.Heartbeat) (*agentv1.HeartbeatReply, *wire.Problem) {
	t.Helper()
	reply := &agentv1.HeartbeatReply{}
	status, body := m.do(t, http.MethodPost, wire.PathHeartbeat, hb, reply)
	if status != http.StatusOK {
		return nil, problemOf(t, status, body)
	}
	return reply, nil
}

// heartbeat is a minimal one.
func heartbeat(instance string, epoch uint64) *agentv1.Heartbeat {
	return &agentv1.Heartbeat{
		Agent:  &agentv1.AgentInfo{Version: "8.0.0", Platform: "linux/amd64", InstanceId: instance, Epoch: epoch, SessionNumber: 1},
		SentAt: timestamppb.Now(),
	}
}

func problemOf(t testing.TB, status int, body []byte) *wire.Problem {
	t.Helper()
	p, ok := wire.ParseProblem(status, "application/problem+json", body)
	if !ok {
		t.Fatalf("status %d without a problem document: %q", status, body)
	}
	return p
}

func (m *machine) client() *http.Client {
	config := &tls.Config{MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS12, InsecureSkipVerify: m.trust == nil}
	if m.trust != nil {
		config.RootCAs = m.trust.ServerPool()
	}
	if m.cert != nil {
		config.Certificates = []tls.Certificate{{Certificate: [][]byte{m.cert}, PrivateKey: m.key}}
	}
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
}

// do sends one request in proto3 JSON and decodes an answer of 200.
func (m *machine) do(t testing.TB, method, path string, req, reply proto.Message) (int, []byte) {
	t.Helper()
	status, body, err := m.try(t.Context(), method, path, req, reply)
	if err != nil {
		t.Fatal(err)
	}
	return status, body
}

// try sends one request on a connection of its own.
func (m *machine) try(ctx context.Context, method, path string, req, reply proto.Message) (int, []byte, error) {
	client := m.client()
	defer client.CloseIdleConnections()
	return m.tryOn(ctx, client, method, path, req, reply)
}

// keptClient keeps its connection from request to request; the caller closes it.
func (m *machine) keptClient() *http.Client {
	client := m.client()
	client.Transport.(*http.Transport).DisableKeepAlives = false
	return client
}

func (m *machine) tryOn(ctx context.Context, client *http.Client, method, path string, req, reply proto.Message) (int, []byte, error) {
	var content []byte
	if req != nil {
		var err error
		if content, err = protojson.Marshal(req); err != nil {
			return 0, nil, err
		}
	}
	r, err := http.NewRequestWithContext(ctx, method, "https://"+m.address+path, bytes.NewReader(content))
	if err != nil {
		return 0, nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json")
	r.Header.Set(wire.HeaderAgentVersion, "8.0.0")
	resp, err := client.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return 0, nil, err
	}
	if resp.StatusCode == http.StatusOK && reply != nil {
		if err := protojson.Unmarshal(body, reply); err != nil {
			return 0, nil, fmt.Errorf("%s %s: %w: %q", method, path, err, body)
		}
	}
	return resp.StatusCode, body, nil
}
