package main

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
)

const version = "8.0.0"

// agent is one that has enrolled: its certificate, and what it says of itself.
type agent struct {
	certificate tls.Certificate
	beat        *agentv1.Heartbeat
	// configs are those of its TLS connections: with a cache of one session, and without.
	resuming, fresh *tls.Config
	told            bool // its capabilities and its inventory
}

// loadAgents reads the identities that fleetsim keeps.
func loadAgents(states string, from, count int) ([]*agent, error) {
	dirs, err := filepath.Glob(filepath.Join(states, "*", "identity"))
	if err != nil {
		return nil, err
	}
	if len(dirs) < from+count {
		return nil, fmt.Errorf("%s has %d agents that have enrolled, not %d", states, len(dirs), from+count)
	}
	slices.SortFunc(dirs, func(a, b string) int { return cmp.Or(len(a)-len(b), strings.Compare(a, b)) }) // as fleetsim counts them
	agents := make([]*agent, 0, count)
	for _, dir := range dirs[from : from+count] {
		pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "agent.crt"), filepath.Join(dir, "agent.key"))
		if err != nil {
			return nil, fmt.Errorf("load an agent's identity: %w", err)
		}
		agents = append(agents, &agent{certificate: pair, beat: newHeartbeat(filepath.Base(filepath.Dir(dir)))})
	}
	return agents, nil
}

// newHeartbeat is what the reference agent sends, of a machine that is made up. The epoch is above any that an agent counts to by ones: this is
// the newest start of it.
func newHeartbeat(name string) *agentv1.Heartbeat {
	return &agentv1.Heartbeat{
		Agent: &agentv1.AgentInfo{
			Version: version, Platform: "linux/amd64", InstanceId: random(), Epoch: uint64(time.Now().Unix()),
			MachineId: hashed("machine " + name), BootId: hashed("boot " + name), JournalId: random(), JournalCreatedAt: timestamppb.Now(),
		},
		TrustVersion: 1, State: &agentv1.EndpointState{}, BeaconAge: durationpb.New(30 * time.Second), ClockSkew: durationpb.New(12 * time.Millisecond),
		Vitals: &agentv1.Vitals{
			Uptime: durationpb.New(100 * time.Hour), MemoryTotal: 16 << 30, MemoryAvailable: 8 << 30, DiskTotal: 256 << 30, DiskFree: 128 << 30, Load1: 0.25,
		},
		CapabilitiesTag: "b1946ac92492d234", InventoryTag: "591785b794601e21",
	}
}

func random() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails, see its documentation
	return hex.EncodeToString(b[:])
}

func hashed(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

func inventory() *agentv1.Inventory {
	host, _ := os.Hostname()
	return &agentv1.Inventory{
		Hostname: host, OsName: "debian", OsVersion: "13.1", Kernel: "6.12.41-amd64", Model: "ThinkPad X1 Carbon Gen 12", Arch: "amd64",
		CpuModel: "made up", CpuCount: 8, MemoryTotal: 16 << 30,
		Interfaces: []*agentv1.NetworkInterface{{Name: "eth0", Addresses: []string{"198.18.0.1"}}},
		Disks:      []*agentv1.Disk{{Mount: "/", Filesystem: "ext4", Total: 256 << 30, Free: 128 << 30}},
	}
}

// next is its next heartbeat. The sections are in it until they were taken.
func (a *agent) next() *agentv1.Heartbeat {
	a.beat.SentAt = timestamppb.Now()
	a.beat.Capabilities, a.beat.Inventory = nil, nil
	if !a.told {
		a.beat.Capabilities, a.beat.Inventory = &agentv1.Capabilities{}, inventory()
	}
	return a.beat
}

// take obeys an answer as far as the next heartbeat shows it, and tells whether the gateway wants one at once.
func (a *agent) take(reply *agentv1.HeartbeatReply) (again bool, err error) {
	a.told = len(reply.GetSend()) == 0
	for _, o := range reply.GetOrders() {
		if err := a.obey(o); err != nil {
			return false, err
		}
	}
	return reply.GetMore() || !a.told || len(reply.GetOrders()) > 0, nil
}

func (a *agent) obey(order *agentv1.Envelope) error {
	parse := protojson.UnmarshalOptions{DiscardUnknown: true}
	var assignment agentv1.Assignment
	var policy agentv1.Policy
	switch envelope.Type(order.GetPayloadType()) {
	case envelope.Assignment:
		err := parse.Unmarshal(order.GetPayload(), &assignment)
		a.beat.AssignmentIssuedAt = assignment.GetIssuedAt()
		return err
	case envelope.Policy:
		err := parse.Unmarshal(order.GetPayload(), &policy)
		a.beat.PolicyId, a.beat.PolicyRevision = policy.GetPolicyId(), policy.GetRevision()
		return err
	default:
		return nil
	}
}

var errNeverSettles = errors.New("the gateway asks for one heartbeat after the other")

// settle beats until the gateway has told everything and was told everything: from then on all heartbeats are alike.
func settle(beat func() (again bool, err error)) error {
	for range 10 {
		if again, err := beat(); err != nil || !again {
			return err
		}
	}
	return errNeverSettles
}
