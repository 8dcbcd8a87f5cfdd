package state

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io/fs"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	statev1 "github.com/rollcall-dev/rollcall/api/agent/state/v1"
	"github.com/rollcall-dev/rollcall/internal/identity"
)

const (
	fleetID = "5f8b0c3e-6f0a-4a53-9f64-0e6a3f1f6a01"
	agentID = "0b6f2f3a-2b1c-4d53-8a64-1e6a3f1f6b02"
)

func open(t *testing.T, path string) *Dir {
	t.Helper()
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// certify signs a certificate for key as the manager would; the serial number tells them apart.
func certify(t *testing.T, key *ecdsa.PrivateKey, serial int64) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: agentID},
		NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour), URIs: []*url.URL{identity.URI(fleetID, agentID)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// enroll goes through what an enrolment or a renewal writes.
func enroll(t *testing.T, d *Dir, request string, serial int64) {
	t.Helper()
	p, err := d.Pending(request)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.SaveRequest(request, []byte("request")); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Commit(certify(t, p.Key, serial)); err != nil {
		t.Fatal(err)
	}
}

func TestPermissions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	if err := os.MkdirAll(path, 0o755); err != nil { // made by a careless hand
		t.Fatal(err)
	}
	d := open(t, path)
	enroll(t, d, Enrollment, 1)
	if err := errors.Join(d.Save(&statev1.AgentState{Epoch: 1}), d.SaveRootPin([32]byte{1}), d.SaveToken(identity.Token{UID: agentID, TrustVersion: 1}),
		d.MakeJournal(), d.SaveAction(uid, &statev1.JournalRecord{}, true)); err != nil {
		t.Fatal(err)
	}
	n := 0
	err := filepath.WalkDir(path, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if e.IsDir() {
			want = 0o700
		}
		if n++; info.Mode().Perm() != want {
			t.Errorf("%s has %v, want %v", name, info.Mode().Perm(), want)
		}
		return nil
	})
	if err != nil || n < 11 {
		t.Errorf("looked at %d files: %v", n, err)
	}
}

func TestOneAgentPerDirectory(t *testing.T) {
	path := t.TempDir()
	first := open(t, path)
	if _, err := Open(path); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), path) {
		t.Fatalf("a second agent got %v, want ErrInUse with the path", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, path)
}

func TestStateSurvives(t *testing.T) {
	path := t.TempDir()
	want := &statev1.AgentState{Epoch: 7, TimeFloor: timestamppb.New(time.Unix(1_800_000_000, 0)), JournalId: "j"}
	d := open(t, path)
	if got, err := d.Load(); err != nil || got != nil {
		t.Fatalf("a new directory has state %v, %v", got, err)
	}
	if err := d.Save(want); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = open(t, path)
	got, err := d.Load()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if pin, ok, err := d.RootPin(); ok || err != nil {
		t.Errorf("a pin from nowhere: %x, %v", pin, err)
	}
}

// Every file, cut short or with a flipped bit: it is set aside and named, and the directory works on.
func TestDamagedFilesAreSetAside(t *testing.T) {
	for _, name := range []string{"state", "root.pin", "token", "identity/agent.crt", "identity/agent.key", "pending/agent.key"} {
		for how, damage := range map[string]func([]byte) []byte{
			"empty":    func([]byte) []byte { return nil },
			"cut":      func(b []byte) []byte { return b[:len(b)/2] },
			"bit":      func(b []byte) []byte { b = bytes.Clone(b); b[len(b)*2/5] ^= 4; return b },
			"enormous": func(b []byte) []byte { return append(b, make([]byte, maxFileBytes)...) },
		} {
			if how == "bit" && (name == "root.pin" || name == "token" || name == "pending/agent.key") {
				continue // another value as good as the first: the server says so later
			}
			t.Run(name+" "+how, func(t *testing.T) {
				path := t.TempDir()
				d := open(t, path)
				enroll(t, d, Enrollment, 1)
				if _, err := d.Pending(Renewal); err != nil {
					t.Fatal(err)
				}
				token := identity.Token{UID: agentID, TrustVersion: 1}
				if err := errors.Join(d.Save(&statev1.AgentState{Epoch: 1, JournalId: strings.Repeat("x", 64)}), d.SaveRootPin([32]byte{1}), d.SaveToken(token)); err != nil {
					t.Fatal(err)
				}
				b, err := os.ReadFile(d.file(name))
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(d.file(name), damage(b), 0o600); err != nil {
					t.Fatal(err)
				}
				_ = d.Close()
				d = open(t, path)
				readAll(t, d)
				if got := strings.Join(d.Damaged(), "\n"); !strings.Contains(got, d.file(name)) {
					t.Errorf("damage not named: %q", got)
				}
				if _, err := os.Stat(d.file(name + asideSuffix)); err != nil {
					t.Errorf("the damaged file is gone: %v", err)
				}
				enroll(t, d, Enrollment, 2)
				if id, err := d.Identity(); err != nil || id == nil || id.Certificate.SerialNumber.Int64() != 2 {
					t.Errorf("cannot enrol again: %v, %v", id, err)
				}
			})
		}
	}
}

func readAll(t *testing.T, d *Dir) {
	t.Helper()
	_, err1 := d.Load()
	_, _, err2 := d.RootPin()
	_, _, err3 := d.Token()
	_, err4 := d.Identity()
	_, err5 := d.Pending(Renewal)
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		t.Errorf("damage is no reason to fail: %v", err)
	}
}

// A crash after any change on the disk, in an enrolment and in the renewal after it: whoever comes next finds the old identity or the new
// one, whole, and a renewal that had not been answered is repeated with the same key and to the letter.
func TestCrashAnywhere(t *testing.T) {
	d := open(t, t.TempDir())
	var serials []int64
	var asked *ecdsa.PrivateKey
	crash := func() {
		path := t.TempDir()
		if err := os.CopyFS(path, os.DirFS(d.path)); err != nil {
			t.Fatal(err)
		}
		again := open(t, path)
		defer func() { _ = again.Close() }()
		id, err := again.Identity()
		if err != nil {
			t.Fatal(err)
		}
		if damaged := again.Damaged(); damaged != nil {
			t.Errorf("a crash damaged %q", damaged)
		}
		serial := int64(0)
		if id != nil {
			serial = id.Certificate.SerialNumber.Int64()
		}
		if len(serials) == 0 || serials[len(serials)-1] != serial {
			serials = append(serials, serial)
		}
		p, err := again.Pending(Renewal)
		if err != nil {
			t.Fatal(err)
		}
		if id != nil && p.Key.Equal(id.Key) {
			t.Error("the key of the certificate is taken for the next one's")
		}
		if p.Request != nil && (string(p.Request) != "request" || asked == nil || !p.Key.Equal(asked)) {
			t.Errorf("request %q is not of its key", p.Request)
		}
	}
	d.changed = crash
	enroll(t, d, Enrollment, 1)
	p, err := d.Pending(Renewal)
	if err != nil {
		t.Fatal(err)
	}
	asked = p.Key
	if err := d.SaveRequest(Renewal, []byte("request")); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Commit(certify(t, p.Key, 2)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int64{0, 1, 2}, serials); diff != "" {
		t.Errorf("identities after crashes (-want +got):\n%s", diff)
	}
}

func TestResetForgets(t *testing.T) {
	d := open(t, t.TempDir())
	enroll(t, d, Enrollment, 1)
	if err := errors.Join(d.SaveContentRecord(&statev1.ContentRecord{Current: &statev1.ContentFile{Version: "1"}}),
		d.Save(&statev1.AgentState{Epoch: 1}), d.SaveRootPin(sha256.Sum256(nil)), d.Reset()); err != nil {
		t.Fatal(err)
	}
	id, err1 := d.Identity()
	s, err2 := d.Load()
	_, pinned, err3 := d.RootPin()
	content, err4 := d.ContentRecord()
	if err := errors.Join(err1, err2, err3, err4); err != nil || id != nil || s != nil || pinned || content != nil || Has(d.path) {
		t.Errorf("after a reset: %v, %v, %t, %v", id, s, pinned, err)
	}
}

func FuzzDecodeState(f *testing.F) {
	good, err := encodeState(&statev1.AgentState{Epoch: 3, JournalId: "j"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:3])
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeState(b)
		if err != nil {
			return
		}
		if again, err := encodeState(s); err != nil {
			t.Fatal(err)
		} else if _, err := decodeState(again); err != nil {
			t.Fatal(err)
		}
	})
}
