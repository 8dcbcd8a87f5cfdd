package agent

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/agent/fleettest"
	"github.com/rollcall-dev/rollcall/internal/content"
)

const (
	isCurrent     = agentv1.ReleasePhase_RELEASE_PHASE_CURRENT
	isFailed      = agentv1.ReleasePhase_RELEASE_PHASE_FAILED
	isDeferred    = agentv1.ReleasePhase_RELEASE_PHASE_DEFERRED
	isDownloading = agentv1.ReleasePhase_RELEASE_PHASE_DOWNLOADING
)

// offers has the next heartbeats bring offers, with a policy if there is one, and the gateway have the files.
func (w *world) offers(policy *agentv1.Policy, all ...*agentv1.Envelope) {
	w.t.Helper()
	at := w.machine.now()
	w.gateway.Orders = func(id string) []*agentv1.Envelope {
		orders := []*agentv1.Envelope{w.fleet.Assignment(id, policy.GetPolicyId(), at)}
		if policy != nil {
			orders = append(orders, w.fleet.PolicyOf(policy))
		}
		return append(orders, all...)
	}
}

// told fails unless the newest heartbeat says that of the content.
func (w *world) told(version string, phase agentv1.ReleasePhase, reason string, sequence uint64) *agentv1.ReleaseState {
	w.t.Helper()
	s := w.gateway.LastBeat().GetContent()
	if s.GetVersion() != version || s.GetPhase() != phase || s.GetReason() != reason || s.GetSequence() != sequence || (version == "") != (s.GetDigest() == "") {
		w.t.Fatalf("content is told as %v, want %s %s %s %d", s, version, phase, reason, sequence)
	}
	return s
}

// inUse is the content that a person would find in use on the disk: whole, and a bundle.
func (w *world) inUse() string {
	w.t.Helper()
	record, err := w.Dir.ContentRecord()
	if err != nil {
		w.t.Fatal(err)
	}
	if record.GetCurrent() == nil {
		return ""
	}
	file, err := os.ReadFile(filepath.Join(w.path, "content", record.GetCurrent().GetSha256()))
	if err != nil {
		w.t.Fatal(err)
	}
	b, err := content.Parse(file)
	if err != nil || content.Digest(file) != record.GetCurrent().GetSha256() || b.Version != record.GetCurrent().GetVersion() {
		w.t.Fatalf("%v is in use, and is %s, %v", record.GetCurrent(), content.Digest(file), err)
	}
	return b.Version
}

// Taken from an offer, told at once, one version back is kept, and older ones go.
func TestContentIsTaken(t *testing.T) {
	for name, newWorld := range map[string]func(*testing.T) *world{"websocket": newWorld, "HTTPS": newWorldOverHTTPS} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.online()
			w.told("", 0, "", 0)
			for i, version := range []string{"1041", "1042", "1043"} {
				file := fleettest.Bundle(version, 100_000)
				w.gateway.Have(file, "")
				w.offers(nil, w.fleet.Offer(version, file, nil))
				w.live(6 * time.Minute)
				s := w.told(version, isCurrent, "", uint64(i+1))
				if s.GetDigest() != content.Digest(file) || s.GetMessage() != "" || w.inUse() != version {
					t.Errorf("%v; in use is %s", s, w.inUse())
				}
				beats := len(w.gateway.Beats())
				w.crash()
				w.online()
				w.told(version, isCurrent, "", uint64(i+1))
				if again := w.gateway.Beats()[beats:]; len(again) > 2 || again[0].GetContent().GetPhase() != isCurrent {
					t.Errorf("after a restart: %v", again)
				}
			}
			if files, err := os.ReadDir(filepath.Join(w.path, "content")); err != nil || len(files) != 3 {
				t.Errorf("%v, %v", files, err)
			}
			if n := len(w.gateway.Beats()); n > 20 {
				t.Errorf("%d heartbeats for three versions", n)
			}
			if w.Status().Orders.Rejected != 0 {
				t.Errorf("%+v", w.Status().Orders)
			}
			w.gateway.AwaitConnections(1)
		})
	}
}

var (
	_ = proto.Clone
	_ = durationpb.New
	_ = timestamppb.New
)
