package store

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/order"
)

var (
	enrolled = time.Date(2026, 11, 1, 8, 0, 0, 0, time.UTC)
	orderKey = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
)

const (
	fleetID  = "0b6a4c1e-55f1-4b2e-9a52-8f1b6d4c7e11"
	policyID = "5d2f9c80-1b3a-4f6d-8e7c-2a9b0c1d3e4f"
)

// uuidOf is the same UUID for the same parts.
func uuidOf(parts ...any) string { return uuid.NewSHA1(uuid.Nil, fmt.Append(nil, parts...)).String() }

// instanceOf is an instance ID.
func instanceOf(parts ...any) string {
	return fmt.Sprintf("%x", sha256.Sum256(fmt.Append(nil, parts...)))[:32]
}

func hashOf(spki []byte) KeyHash { return sha256.Sum256(spki) }

func assignmentTo(t testing.TB, identityID string) v1alpha1.Envelope {
	t.Helper()
	e, err := envelope.Seal(orderKey, envelope.Assignment, &agentv1.Assignment{
		Namespace: "fleet", FleetId: fleetID, IdentityId: identityID, PolicyId: policyID,
		IssuedAt: timestamppb.New(enrolled.Add(1234 * time.Millisecond)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return order.ToResource(e)
}

// machine is the n-th Endpoint of a fleet, as it is after some weeks.
func machine(t testing.TB, n int) *v1alpha1.Endpoint {
	t.Helper()
	id := uuidOf("identity", n)
	return &v1alpha1.Endpoint{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "fleet", Name: fmt.Sprintf("laptop-%05d", n), UID: types.UID(uuidOf("object", n)), ResourceVersion: "100",
			Labels: map[string]string{"device": "laptop"},
		},
		Status: v1alpha1.EndpointStatus{
			Summary: "Online",
			Identity: &v1alpha1.EndpointIdentity{
				ID: id, PublicKeys: [][]byte{fmt.Appendf(nil, "new key %d", n), fmt.Appendf(nil, "old key %d", n)}, EnrolledTime: metav1.Time{Time: enrolled},
				PreviousKeyExpirationTime: &metav1.Time{Time: enrolled.Add(480 * time.Hour)},
			},
			Policy:       &v1alpha1.AssignedPolicy{Name: "laptops", Assignment: assignmentTo(t, id), OfflineAfterSeconds: 1200},
			LastSeenTime: &metav1.Time{Time: enrolled.Add(500 * time.Hour)},
			Connection: &v1alpha1.EndpointConnection{
				Channel: v1alpha1.ChannelHeartbeat, Epoch: 12, InstanceID: instanceOf(n, 12), SessionNumber: 3,
				SinceTime: &metav1.Time{Time: enrolled.Add(490 * time.Hour)}, InstanceTime: &metav1.Time{Time: enrolled.Add(490 * time.Hour)},
				PreviousInstanceID: instanceOf(n, 11), RemoteAddress: v1alpha1.Text(fmt.Sprintf("10.1.%d.%d", n>>8&255, n&255)),
			},
			Agent: &v1alpha1.EndpointAgent{
				Version: "8.0.0", PolicyID: policyID, PolicyRevision: 7, TrustVersion: 1, Isolation: v1alpha1.Released,
				Capabilities: []v1alpha1.Text{"PerformHeartbeat"}, JournalTime: &metav1.MicroTime{Time: enrolled.Add(1234567 * time.Microsecond)},
				ClockSkewSeconds: ptr.To[int32](20),
			},
			Inventory: &v1alpha1.EndpointInventory{
				Hostname: v1alpha1.Text(fmt.Sprintf("laptop-%05d", n)), OS: &v1alpha1.EndpointOS{Name: "Debian GNU/Linux", Version: "13"},
				Addresses: []v1alpha1.Text{"10.1.2.3"}, CPUs: 8, MemoryMiB: 16384, BootTime: &metav1.Time{Time: enrolled.Add(480 * time.Hour)},
			},
		},
	}
}

// machineBlocks has what an agent says of itself and its machine.
func machineBlocks() v1alpha1.EndpointStatus {
	return v1alpha1.EndpointStatus{
		Agent: &v1alpha1.EndpointAgent{
			Version: "8.0.0", ContentVersion: "1.2", PolicyRevision: 7, TrustVersion: 1, Isolation: v1alpha1.Released, JournalFull: true,
			Capabilities: []v1alpha1.Text{"PerformHeartbeat", "LiveTerminal"}, JournalTime: &metav1.MicroTime{Time: time.Now()}, ClockSkewSeconds: ptr.To[int32](-20),
		},
		Inventory: &v1alpha1.EndpointInventory{
			Hostname: "laptop", MachineID: "0123", OS: &v1alpha1.EndpointOS{Name: "Debian GNU/Linux", Arch: "amd64"},
			Addresses: []v1alpha1.Text{"192.0.2.1", "2001:db8::1"}, CPUs: 8, MemoryMiB: 16384, BootTime: &metav1.Time{Time: time.Now()},
		},
	}
}

func pemOf(der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}) }
