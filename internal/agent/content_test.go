package agent

import (
	"bytes"
	"crypto/ed25519"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

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
	w.gateway.SetOrders(func(id string) []*agentv1.Envelope {
		orders := []*agentv1.Envelope{w.fleet.Assignment(id, policy.GetPolicyId(), at)}
		if policy != nil {
			orders = append(orders, w.fleet.PolicyOf(policy))
		}
		return append(orders, all...)
	})
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
			stale := filepath.Join(w.path, "content", strings.Repeat("0", 64)+".part") // of an offer that counts no more
			if err := os.WriteFile(stale, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			w.crash()
			w.online()
			if files, err := os.ReadDir(filepath.Join(w.path, "content")); err != nil || len(files) != 3 {
				t.Errorf("%v, %v", files, err)
			}
			if n := len(w.gateway.Beats()); n > 22 {
				t.Errorf("%d heartbeats for three versions", n)
			}
			if w.Status().Orders.Rejected != 0 {
				t.Errorf("%+v", w.Status().Orders)
			}
			w.gateway.AwaitConnections(1)
		})
	}
}

// running has an online agent that took a version from a file of about 100 KB.
func running(t *testing.T, version string) (*world, []byte) {
	t.Helper()
	w := newWorld(t)
	w.online()
	file := fleettest.Bundle(version, 100_000)
	w.gateway.Have(file, "")
	w.offers(nil, w.fleet.Offer(version, file, nil))
	w.live(6 * time.Minute)
	w.told(version, isCurrent, "", 1)
	return w, file
}

// What is not good is not put to use, whatever it is that is wrong; the agent says so at once, and tries again ever more seldom.
func TestBadContent(t *testing.T) {
	good := fleettest.Bundle("1042", 50_000)
	changed := bytes.Clone(good)
	changed[100] ^= 1
	unparsable := bytes.Replace(good, []byte(`"eicar":true`), []byte(`"regexp":"x"`), 1)
	for name, c := range map[string]struct {
		offered, served []byte
		change          func(*agentv1.Offer)
		reason, message string
	}{
		"changed on the way": {good, changed, nil, content.ReasonDigestDiffers, "the downloaded file's digest differs from the signed offer"},
		"shorter":            {good, good[:1000], nil, content.ReasonSizeDiffers, "the downloaded file's size differs from the signed offer"},
		"longer":             {good, append(bytes.Clone(good), ' '), nil, content.ReasonSizeDiffers, "the downloaded file's size differs from the signed offer"},
		"unparsable":         {unparsable, unparsable, nil, content.ReasonUnparsable, `the file does not parse: unknown field "rules[0].regexp"`},
		"of another version": {good, good, func(o *agentv1.Offer) { o.Version = "1043" }, content.ReasonVersionDiffers, "the file says that it is version 1042, the offer 1043"},
		"of no content key": {good, good, func(o *agentv1.Offer) {
			_, key, _ := ed25519.GenerateKey(nil)
			o.Artifacts[0].Signature = fleettest.Minisign(key, good)
		}, content.ReasonSignatureInvalid, "the signature does not hold: no content key of the fleet made it for this file"},
		"too large": {good, good, func(o *agentv1.Offer) { o.Artifacts[0].Size = content.MaxBytes + 1 }, content.ReasonTooLarge, "the file has 16777217 bytes, and content at most 16777216"},
	} {
		t.Run(name, func(t *testing.T) {
			w, _ := running(t, "1041")
			w.gateway.Have(c.served, content.Digest(c.offered))
			w.push(w.fleet.Offer("1042", c.offered, c.change))
			_, before := w.gateway.Served()
			w.live(time.Second)
			if s := w.told("1041", isFailed, c.reason, 2); !strings.HasPrefix(s.GetMessage(), "content 104") || !strings.HasSuffix(s.GetMessage(), " not applied: "+c.message) {
				t.Errorf("message %q, want %q", s.GetMessage(), c.message)
			}
			w.live(2 * time.Hour)
			w.told("1041", isFailed, c.reason, 2)
			if _, after := w.gateway.Served(); len(after)-len(before) > 10 || len(after)-len(before) < 6 && name != "too large" {
				t.Errorf("asked %d times in two hours", len(after)-len(before))
			}
			w.crash()
			w.online()
			if w.inUse() != "1041" {
				t.Errorf("in use is %s", w.inUse())
			}
			w.told("1041", isFailed, c.reason, 2)
			better := fleettest.Bundle("1044", 1000)
			w.gateway.Have(better, "")
			w.push(w.fleet.Offer("1044", better, nil))
			w.live(time.Second)
			w.told("1044", isCurrent, "", 3)
		})
	}
}

// A file that was bad at one gateway is taken once it is good.
func TestBadContentHeals(t *testing.T) {
	w, _ := running(t, "1041")
	good := fleettest.Bundle("1042", 50_000)
	bad := bytes.Clone(good)
	bad[100] ^= 1
	w.gateway.Have(bad, content.Digest(good))
	w.push(w.fleet.Offer("1042", good, nil))
	w.live(time.Second)
	w.told("1041", isFailed, content.ReasonDigestDiffers, 2)
	w.gateway.Have(good, "")
	w.live(2 * time.Minute)
	w.told("1042", isCurrent, "", 2)
}

// A gateway that was taken over has orders that were signed for others, or long ago, and can sign none.
func TestSeizedGatewayOffers(t *testing.T) {
	foreign := fleettest.New(t, func() time.Time { return noon })
	for name, c := range map[string]struct {
		offer    func(w *world, file []byte) *agentv1.Envelope
		rejected string
	}{
		"for another namespace": {func(w *world, file []byte) *agentv1.Envelope {
			return w.fleet.Offer("1043", file, func(o *agentv1.Offer) { o.Namespace = "others" })
		}, "offer: OtherNamespace"},
		"of another fleet": {func(w *world, file []byte) *agentv1.Envelope {
			return w.fleet.OfferBy(w.fleet.Order, "1043", file, func(o *agentv1.Offer) { o.FleetId = foreign.ID })
		}, "offer: OtherFleet"},
		"signed by nobody": {func(w *world, file []byte) *agentv1.Envelope {
			return w.fleet.OfferBy(foreign.Order, "1043", file, nil)
		}, "offer: SignatureInvalid"},
		"signed by the content key": {func(w *world, file []byte) *agentv1.Envelope {
			return w.fleet.OfferBy(w.fleet.Content, "1043", file, nil)
		}, "offer: SignatureInvalid"},
		"of a lower version": {func(w *world, file []byte) *agentv1.Envelope { return w.fleet.Offer("1041", file, nil) }, "offer: Downgrade"},
		"of an older sequence": {func(w *world, file []byte) *agentv1.Envelope {
			return w.fleet.Offer("1043", file, func(o *agentv1.Offer) { o.Sequence = 1 })
		}, ""}, // the one that it has, or says that it is
		"beyond its share": {func(w *world, file []byte) *agentv1.Envelope {
			return w.fleet.Offer("1043", file, func(o *agentv1.Offer) { o.Share = 0 })
		}, ""},
		"of the version in use, with another file": {func(w *world, file []byte) *agentv1.Envelope { return w.fleet.Offer("1042", file, nil) }, "offer: OtherContent"},
		"of agents": {func(w *world, file []byte) *agentv1.Envelope {
			return w.fleet.Offer("1043", file, func(o *agentv1.Offer) { o.Kind = agentv1.ReleaseKind_RELEASE_KIND_AGENT })
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w, _ := running(t, "1042")
			file := fleettest.Bundle("1043", 1000)
			w.gateway.Have(file, "")
			_, before := w.gateway.Served()
			w.push(c.offer(w, file))
			w.live(time.Hour)
			w.told("1042", isCurrent, "", 1)
			if s := w.Status().Orders; s.LastRejection != c.rejected || (s.Rejected == 1) != (c.rejected != "") {
				t.Errorf("orders %+v, want %q", s, c.rejected)
			}
			if _, after := w.gateway.Served(); len(after) != len(before) {
				t.Error("the file was downloaded")
			}
		})
	}
}

// Back to a lower version: from one that was withdrawn, and no other; what was taken up of the withdrawn one is not tried again.
func TestWithdrawn(t *testing.T) {
	w, older := running(t, "1041")
	w.offers(nil)
	newer := fleettest.Bundle("1042", 50_000)
	w.gateway.Have(newer, "")
	held := w.fleet.Offer("1042", newer, nil)
	w.push(held)
	w.live(time.Second)
	w.told("1042", isCurrent, "", 2)
	_, before := w.gateway.Served()
	w.push(w.fleet.Offer("1041", older, func(o *agentv1.Offer) { o.Withdrawn = []string{"1042"} }))
	w.live(time.Second)
	w.told("1041", isCurrent, "", 3)
	if _, after := w.gateway.Served(); len(after) != len(before) {
		t.Error("downloaded what was still on the disk")
	}
	w.push(held)
	w.live(time.Minute)
	w.told("1041", isCurrent, "", 3)
	if s := w.Status().Orders; s.Rejected != 1 || s.LastRejection != "offer: Superseded" {
		t.Errorf("%+v", s)
	}
}

func TestPinned(t *testing.T) {
	w, older := running(t, "1041")
	oldOffer := w.fleet.Offer("1041", older, nil)
	newer := fleettest.Bundle("1042", 50_000)
	w.gateway.Have(newer, "")
	offer := w.fleet.Offer("1042", newer, nil)
	policy := &agentv1.Policy{PolicyId: policyID, Revision: 1, ContentVersion: "1041"}
	w.machine.pass(time.Second)
	w.offers(policy, offer)
	w.live(6 * time.Minute)
	if s := w.told("1041", isDeferred, content.ReasonPinned, 3); s.GetMessage() != "the policy pins content to version 1041" {
		t.Errorf("message %q", s.GetMessage())
	}
	policy.Revision, policy.ContentVersion = 2, ""
	w.live(6 * time.Minute)
	w.told("1042", isCurrent, "", 3)
	policy.Revision, policy.ContentVersion = 3, "1041"
	w.offers(policy, oldOffer)
	w.live(6 * time.Minute)
	w.told("1041", isDeferred, content.ReasonPinned, 3)
}

// A release waits as long as the policy says; others that come meanwhile do not put it off.
func TestDelayed(t *testing.T) {
	w := newWorld(t)
	w.online()
	policy := &agentv1.Policy{PolicyId: policyID, Revision: 1, ContentDelayDays: 7, HeartbeatInterval: durationpb.New(time.Hour)}
	w.machine.pass(time.Second)
	w.offers(policy)
	w.live(6 * time.Minute)
	for n := range 10 {
		version := strconv.Itoa(1041 + n)
		file := fleettest.Bundle(version, 1000)
		w.gateway.Have(file, "")
		w.push(w.fleet.Offer(version, file, nil))
		w.live(time.Hour)
		if n < 7 {
			w.told("", isDeferred, content.ReasonDelayed, uint64(n+1))
		} else {
			w.told(strconv.Itoa(1041+n-7), isDeferred, content.ReasonDelayed, uint64(n+1))
		}
		if n == 3 {
			w.crash()
			w.online()
		}
		w.live(23 * time.Hour)
	}
	w.offers(policy)
	w.live(8 * 24 * time.Hour)
	w.told("1050", isCurrent, "", 10)
}
