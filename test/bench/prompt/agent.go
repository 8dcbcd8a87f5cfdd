// Package prompt is an agent that does nothing but take actions: it has one as soon as its bytes are here, and reports at once that it was done.
// What is measured with it is the way from a person to an agent, and not what an agent does.
package prompt

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	statev1 "github.com/rollcall-dev/rollcall/api/agent/state/v1"
	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/agent/client"
	"github.com/rollcall-dev/rollcall/internal/agent/state"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/transport"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

const version = "8.0.0"

// Agent is one with a session.
type Agent struct {
	conn     *transport.Conn
	key      *ecdsa.PrivateKey
	fleet    string
	identity string
	info     *agentv1.AgentInfo
	sent     uint64
	told     bool

	mu  sync.Mutex
	had map[string]time.Time // by the action's UID
}

// Connect opens a session with the identity that an agent keeps in a directory, and beats until the gateway has told and heard all.
func Connect(ctx context.Context, dir, address string) (*Agent, error) {
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "identity", "agent.crt"), filepath.Join(dir, "identity", "agent.key"))
	if err != nil {
		return nil, fmt.Errorf("load an agent's identity: %w", err)
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil, err
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || len(leaf.URIs) != 1 {
		return nil, errors.New("this is no agent's identity")
	}
	server := client.Server{URL: &url.URL{Scheme: "https", Host: address}, AgentVersion: version}
	roots, err := serverCA(ctx, server)
	if err != nil {
		return nil, err
	}
	journal, err := journalIn(dir) // with another one the fleet would take it for an agent that lost what it did
	if err != nil {
		return nil, err
	}
	now := time.Now()
	a := &Agent{
		key: key, fleet: leaf.URIs[0].Host, identity: strings.TrimPrefix(leaf.URIs[0].Path, "/endpoint/"), had: map[string]time.Time{},
		info: &agentv1.AgentInfo{
			Version: version, Platform: "linux/amd64", InstanceId: hexID(), Epoch: uint64(now.Unix()), SessionNumber: 1,
			JournalId: journal.GetJournalId(), JournalCreatedAt: journal.GetJournalCreatedAt(),
		},
	}
	if a.conn, err = client.New(server, roots, &pair).Session(ctx, client.Moment{Now: now, Floor: now, Anchored: true}); err != nil {
		return nil, err
	}
	if err := a.settle(); err != nil {
		a.conn.CloseNow()
		return nil, err
	}
	return a, nil
}

func journalIn(dir string) (*statev1.AgentState, error) {
	d, err := state.Open(dir, state.Light())
	if err != nil {
		return nil, err
	}
	kept, err := d.Load()
	if err == nil && kept == nil {
		err = fmt.Errorf("%s has no state", dir)
	}
	return kept, errors.Join(err, d.Close())
}

func hexID() string { return strings.ReplaceAll(uuid.NewString(), "-", "") }

// serverCA are those that a gateway's trust names. Who serves it does not matter here.
func serverCA(ctx context.Context, server client.Server) (*x509.CertPool, error) {
	c := client.NewTrustClient(server)
	defer c.Close()
	bundles, err := c.After(ctx, 0)
	if err != nil {
		return nil, fmt.Errorf("ask for trust: %w", err)
	}
	roots := x509.NewCertPool()
	for _, b := range bundles {
		trust := &agentv1.TrustBundle{}
		if err := envelope.Parse(b.GetPayload(), trust); err != nil {
			return nil, fmt.Errorf("read the trust: %w", err)
		}
		for _, der := range trust.GetServerCa() {
			ca, err := x509.ParseCertificate(der)
			if err != nil {
				return nil, fmt.Errorf("read the trust: %w", err)
			}
			roots.AddCert(ca)
		}
	}
	return roots, nil
}

// settle beats until the gateway wants no heartbeat at once any more.
func (a *Agent) settle() error {
	for range 10 {
		if err := a.beat(); err != nil {
			return err
		}
		more := true
		for answered := false; !answered; {
			m, err := a.read()
			if err != nil {
				return err
			}
			if reply := m.GetHeartbeatReply(); reply != nil {
				answered, more, a.told = true, reply.GetMore() || len(reply.GetSend()) > 0, len(reply.GetSend()) == 0
			}
		}
		if !more {
			return nil
		}
	}
	return errors.New("the gateway asks for one heartbeat after the other")
}

func (a *Agent) beat() error {
	m := &agentv1.Heartbeat{
		Agent: a.info, SentAt: timestamppb.Now(), TrustVersion: 1, State: &agentv1.EndpointState{}, CapabilitiesTag: "prompt", InventoryTag: "prompt",
	}
	if !a.told {
		m.Capabilities = &agentv1.Capabilities{Names: []string{"PerformHeartbeat"}}
		m.Inventory = &agentv1.Inventory{Hostname: "prompt"}
	}
	return a.write(&agentv1.AgentMessage{Body: &agentv1.AgentMessage_Heartbeat{Heartbeat: m}})
}

func (a *Agent) write(m *agentv1.AgentMessage) error {
	a.sent++
	m.Id = a.sent
	b, err := wire.Protobuf.Marshal(m)
	if err != nil {
		return err
	}
	return a.conn.Write(b)
}

func (a *Agent) read() (*agentv1.ServerMessage, error) {
	b, err := a.conn.Read()
	if err != nil {
		return nil, err
	}
	m := &agentv1.ServerMessage{}
	return m, wire.Protobuf.Unmarshal(b, m)
}

// Run takes actions until the session ends, and beats when its owner has it beat by ending it: an hour's silence is for the gateway's flags.
func (a *Agent) Run() error {
	for {
		m, err := a.read()
		if err != nil {
			return err
		}
		at := time.Now()
		for _, e := range append(m.GetOrders().GetOrders(), m.GetHeartbeatReply().GetOrders()...) {
			if e.GetPayloadType() != string(envelope.Action) {
				continue
			}
			if err := a.take(e, at); err != nil {
				return err
			}
		}
	}
}

// take notes an action, and reports that it was done.
func (a *Agent) take(e *agentv1.Envelope, at time.Time) error {
	order := &agentv1.Action{}
	if err := envelope.Parse(e.GetPayload(), order); err != nil {
		return err
	}
	a.mu.Lock()
	_, again := a.had[order.GetActionUid()]
	if !again {
		a.had[order.GetActionUid()] = at
	}
	a.mu.Unlock()
	digest := sha256.Sum256(e.GetPayload())
	result, err := envelope.Seal(a.key, envelope.Result, &agentv1.ActionResult{
		FleetId: a.fleet, IdentityId: a.identity, ActionUid: order.GetActionUid(), ActionDigest: hex.EncodeToString(digest[:]),
		Outcome: agentv1.Outcome_OUTCOME_SUCCEEDED, Reason: "Done", StartedAt: timestamppb.New(at), FinishedAt: timestamppb.Now(),
	})
	if err != nil {
		return err
	}
	return a.write(&agentv1.AgentMessage{Body: &agentv1.AgentMessage_ActionUpdate{ActionUpdate: &agentv1.ActionUpdate{
		ActionUid: order.GetActionUid(), Phase: agentv1.ActionPhase_ACTION_PHASE_FINISHED, Result: result,
	}}})
}

// Had is when an action was here; false if it was not.
func (a *Agent) Had(uid string) (time.Time, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	at, ok := a.had[uid]
	return at, ok
}

// IdentityID is whose session it is.
func (a *Agent) IdentityID() string { return a.identity }

// Close ends the session.
func (a *Agent) Close() { a.conn.CloseNow() }
