package agent

import (
	"crypto/x509"
	"encoding/pem"
	"testing"
	"time"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/agent/fleettest"
	"github.com/rollcall-dev/rollcall/internal/agent/state"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

const day = 24 * time.Hour

func (w *world) leaf() *x509.Certificate {
	w.t.Helper()
	block, _ := pem.Decode([]byte(w.certificate()))
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		w.t.Fatal(err)
	}
	return cert
}

// At two thirds of its life ± 5 % a certificate is renewed for a new key, and the connection is a new one: a resumed TLS session would
// show the old certificate.
func TestRenewsInTime(t *testing.T) {
	w := newWorldOverHTTPS(t)
	w.Timing.HeartbeatInterval = 6 * time.Hour
	w.online()
	first := w.leaf()
	w.live(18 * day)
	if w.leaf().SerialNumber.Cmp(first.SerialNumber) != 0 {
		t.Fatal("renewed before 60 % of the lifetime")
	}
	w.live(4 * day)
	w.expect("Online")
	second := w.leaf()
	if second.SerialNumber.Cmp(first.SerialNumber) == 0 {
		t.Fatal("not renewed after 73 % of the lifetime")
	}
	if string(second.RawSubjectPublicKeyInfo) == string(first.RawSubjectPublicKeyInfo) || second.Subject.String() != first.Subject.String() {
		t.Error("the certificate is for the same key, or for another identity")
	}
	w.live(120 * day)
	w.expect("Online")
	if n := len(w.gateway.Requests(wire.PathRenew)); n < 6 || n > 8 {
		t.Errorf("renewed %d times in 142 days", n)
	}
}

func TestRenewalTimesSpread(t *testing.T) {
	f := fleettest.New(t, func() time.Time { return noon })
	var early, late time.Duration = day * 30, 0
	for range 200 {
		cert := f.Certify(f.AgentCA.Key.Public(), "x", noon, noon.Add(30*day))
		at := renewAt(cert).Sub(noon)
		if at != renewAt(cert).Sub(noon) {
			t.Fatal("it is not the same twice")
		}
		early, late = min(early, at), max(late, at)
	}
	if early < 18*day+12*time.Hour-time.Minute || late > 21*day+12*time.Hour+time.Minute || late-early < 2*day {
		t.Errorf("renewals come from %s to %s, want 18.5 to 21.5 days, spread", early, late)
	}
}

// A renewal whose answer is lost, or comes later, is repeated to the letter, also by the next process, and heartbeats go on meanwhile.
func TestRenewalIsRepeatedToTheLetter(t *testing.T) {
	for name, bend := range map[string]fleettest.Answer{
		"lost": fleettest.Lose, "accepted": fleettest.Accept(time.Minute), "manager away": fleettest.Refuse(&wire.Problem{Name: wire.NotReady}),
	} {
		for _, crash := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				w := newWorldOverHTTPS(t)
				w.config.Timing.HeartbeatInterval = 6 * time.Hour
				w.Timing = w.config.Timing
				w.online()
				first := w.leaf().SerialNumber
				w.gateway.Next(wire.PathRenew, bend, bend, bend, bend)
				for range 22 * 4 {
					w.live(6 * time.Hour)
					if crash && len(w.gateway.Requests(wire.PathRenew)) > 0 {
						w.crash()
					}
				}
				w.online()
				if w.leaf().SerialNumber.Cmp(first) == 0 {
					t.Fatal("not renewed")
				}
				if got := w.gateway.Requests(wire.PathRenew); !same(got) {
					t.Error("the repeated renewal is another one")
				}
			})
		}
	}
}

// A laptop that slept past the end of its certificate: a problem, a renewal, and it is back; and so after a reboot.
func TestExpiredCertificateRenews(t *testing.T) {
	for _, reboot := range []bool{false, true} {
		w := newWorld(t)
		w.online()
		w.machine.pass(40 * day)
		w.gateway.Stop()
		w.gateway.Start(w.fleet.ServerCA, fleettest.Serving(w.machine.now(), w.machine.now().Add(3*day)))
		if reboot {
			w.crash()
		}
		w.online()
		if n := len(w.gateway.Requests(wire.PathRenew)); n != 1 {
			t.Errorf("%d renewals", n)
		}
	}
}

// Two machines with one identity: one renewed, the other is told so, asks for a certificate once, shows the conflict, and keeps what it has.
func TestSupersededCertificate(t *testing.T) {
	w := newWorldOverHTTPS(t)
	w.online()
	before := w.certificate()
	superseded := fleettest.Refuse(&wire.Problem{Name: wire.CertificateSuperseded})
	for range 20 {
		w.gateway.Next(wire.PathHeartbeat, superseded)
		w.gateway.Next(wire.PathRenew, superseded)
	}
	w.live(2 * time.Hour)
	w.expect("Conflict", wire.CertificateSuperseded)
	if beats := len(w.gateway.Beats()); w.certificate() != before || beats > 2 {
		t.Errorf("%d heartbeats were taken; identity kept: %t", beats, w.certificate() == before)
	}
	if id, err := w.Dir.Identity(); err != nil || id == nil {
		t.Errorf("identity %v, %v", id, err)
	}
	if wait := w.beat.due - w.boot(); wait > 17*time.Minute {
		t.Errorf("waits %s", wait)
	}
}

func TestExpiredBeyondGrace(t *testing.T) {
	w := newWorldOverHTTPS(t)
	w.online()
	expired := fleettest.Refuse(&wire.Problem{Name: wire.CertificateExpired})
	for range 50 {
		w.gateway.Next(wire.PathHeartbeat, expired)
		w.gateway.Next(wire.PathRenew, expired)
	}
	w.live(2 * time.Hour)
	w.expect("Offline", wire.CertificateExpired)
	if w.certificate() == "" {
		t.Error("the identity is gone")
	}
}

// The fleet changes its agent CA: who has a certificate of the old one renews at once.
func TestIssuerNoLongerTrusted(t *testing.T) {
	w := newWorld(t)
	w.online()
	w.fleet.AgentCA = fleettest.NewCA(t, "next")
	w.fleet.Publish(w.fleet.Root, nil)
	w.live(6 * time.Minute)
	w.expect("Online")
	if err := w.leaf().CheckSignatureFrom(w.fleet.AgentCA.Cert); err != nil {
		t.Errorf("not renewed: %v", err)
	}
}

// A certificate that is not the one that was asked for is not taken, whatever is wrong with it.
func TestWrongCertificateIsRefused(t *testing.T) {
	w := newWorld(t)
	pending, err := w.Dir.Pending(state.Enrollment)
	if err != nil {
		t.Fatal(err)
	}
	other := fleettest.New(t, w.machine.now)
	const id = "0b6f2f3a-2b1c-4d53-8a64-1e6a3f1f6b02"
	twin, impostor := *w.fleet, *other // the right CA for another fleet, another CA for the right one
	twin.ID, impostor.ID = other.ID, w.fleet.ID
	for name, cert := range map[string]*x509.Certificate{
		"another key":   w.fleet.Certify(other.AgentCA.Key.Public(), id, noon, noon.Add(day)),
		"another CA":    impostor.Certify(pending.Key.Public(), id, noon, noon.Add(day)),
		"another fleet": twin.Certify(pending.Key.Public(), id, noon, noon.Add(day)),
		"no agent's":    w.fleet.AgentCA.Sign(t, pending.Key.Public(), fleettest.Serving(noon, noon.Add(day))),
	} {
		t.Run(name, func(t *testing.T) {
			w.gateway.Next(wire.PathEnroll, certificate(t, cert.Raw))
			w.hurry()
			w.Step(t.Context())
			w.expect("NotEnrolled", "certificate-refused")
			if w.certificate() != "" {
				t.Error("it was taken")
			}
		})
	}
	w.hurry()
	w.online()
}

func certificate(t *testing.T, der []byte) fleettest.Answer {
	b, err := wire.Protobuf.Marshal(&agentv1.CertificateReply{Certificate: der})
	if err != nil {
		t.Fatal(err)
	}
	return fleettest.Raw(wire.Protobuf.ContentType(), b)
}
