package keys

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/faults"
	"github.com/rollcall-dev/rollcall/internal/identity"
)

const (
	bundleSuffix = ".json"
	// maxCAs of one kind in a bundle: the current one and those whose certificates may still be out there.
	maxCAs = 4
	// maxOrderKeys likewise: the current one and those that were replaced.
	maxOrderKeys = 4
	// minOverlap: a shorter one is none. Whoever asks for it knows of a leak.
	minOverlap = time.Minute
)

// ensureTrust publishes the first bundle of a new fleet, and opens what is published.
func (s Store) ensureTrust(ctx context.Context, f *Fleet) error {
	cm, found, err := s.readTrust(ctx)
	if err != nil {
		return err
	}
	if !found {
		if cm, err = s.publishFirst(ctx, f); err != nil {
			return err
		}
	}
	return openTrust(f, cm)
}

func (s Store) readTrust(ctx context.Context) (*corev1.ConfigMap, bool, error) {
	cm := &corev1.ConfigMap{}
	err := s.Client.Get(ctx, client.ObjectKey{Namespace: s.Namespace, Name: TrustConfigMap}, cm)
	if apierrors.IsNotFound(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("read ConfigMap %s/%s: %w", s.Namespace, TrustConfigMap, err)
	}
	return cm, true, nil
}

func (s Store) publishFirst(ctx context.Context, f *Fleet) (*corev1.ConfigMap, error) {
	cm := &corev1.ConfigMap{Data: map[string]string{fleetIDKey: f.ID}}
	cm.Namespace, cm.Name = s.Namespace, TrustConfigMap
	if err := addBundle(cm, f, f.bundle(1, s.now(), nil, s.Overlap)); err != nil {
		return nil, err
	}
	err := s.Client.Create(ctx, cm)
	if apierrors.IsAlreadyExists(err) {
		cm, _, err = s.readTrust(ctx)
		return cm, err
	}
	if err != nil {
		return nil, fmt.Errorf("publish the first trust bundle: %w", err)
	}
	faults.After("trust", "")
	return cm, nil
}

// Advance publishes another bundle if the newest one does not say what this fleet signs with. Only the leader may.
func (s Store) Advance(ctx context.Context, f *Fleet) error {
	cm, found, err := s.readTrust(ctx)
	if err != nil || !found {
		return err
	}
	if err := openTrust(f, cm); err != nil {
		return err
	}
	newest := &agentv1.TrustBundle{}
	chain, versions, err := bundles(cm)
	if err != nil {
		return err
	}
	if err := envelope.Parse(chain[len(chain)-1].GetPayload(), newest); err != nil {
		return err
	}
	releaseKeys, _, err := s.releaseKeys(ctx)
	if err != nil {
		return fmt.Errorf("read ConfigMap %s/%s: %w", s.Namespace, ReleaseKeys, err)
	}
	next := f.bundle(newest.GetVersion()+1, later(s.now(), newest.GetIssuedAt()), newest, s.Overlap)
	setReleaseKeys(next, releaseKeys)
	if sameTrust(newest, next) {
		return nil
	}
	if err := addBundle(cm, f, next); err != nil {
		return err
	}
	for i, version := range versions {
		if i > 0 && sameRoots(chain[i-1], chain[i]) { // agents go past it by the roots that it did not change
			delete(cm.Data, strconv.FormatUint(version, 10)+bundleSuffix)
		}
	}
	if err := s.Client.Update(ctx, cm); err != nil {
		return fmt.Errorf("publish trust bundle %d: %w", next.GetVersion(), err)
	}
	faults.After("trust", "")
	return openTrust(f, cm)
}

// bundle is what this fleet signs with now. Certificate authorities of the bundle before stay, so that what they issued keeps working;
// so do its keys of other uses. An order key that was replaced stays for the overlap: most of what it signed is signed again, but not what was sent.
func (f *Fleet) bundle(version uint64, issued time.Time, before *agentv1.TrustBundle, overlap time.Duration) *agentv1.TrustBundle {
	b := &agentv1.TrustBundle{
		FleetId: f.ID, Version: version, IssuedAt: timestamppb.New(issued),
		Keys: []*agentv1.TrustKey{
			{Spki: spki(f.root.Public()), Uses: []agentv1.KeyUse{agentv1.KeyUse_KEY_USE_ROOT}},
			{Spki: spki(f.Orders.Public()), Uses: []agentv1.KeyUse{agentv1.KeyUse_KEY_USE_ORDERS}},
		},
		ServerCa: keepCAs(f.ServerCA, before.GetServerCa(), issued),
		AgentCa:  keepCAs(f.AgentCA, before.GetAgentCa(), issued),
	}
	replacedNow := !hasKey(before, spki(f.Orders.Public()))
	overlaps := overlap >= minOverlap && (replacedNow || issued.Before(before.GetIssuedAt().AsTime().Add(overlap)))
	orderKeys := 1
	for _, k := range before.GetKeys() {
		signsOrders := slices.Equal(k.GetUses(), []agentv1.KeyUse{agentv1.KeyUse_KEY_USE_ORDERS})
		switch {
		case hasKey(b, k.GetSpki()):
		case !signsOrders:
			b.Keys = append(b.Keys, k)
		case overlaps && orderKeys < maxOrderKeys: // newest first
			orderKeys++
			b.Keys = append(b.Keys, k)
		}
	}
	return b
}

func hasKey(b *agentv1.TrustBundle, spki []byte) bool {
	return slices.ContainsFunc(b.GetKeys(), func(k *agentv1.TrustKey) bool { return bytes.Equal(k.GetSpki(), spki) })
}

func keepCAs(current *Authority, before [][]byte, now time.Time) [][]byte {
	cas := [][]byte{current.Certificate.Raw}
	for _, der := range before {
		ca, err := x509.ParseCertificate(der)
		if err == nil && now.Before(ca.NotAfter) && !bytes.Equal(der, cas[0]) && len(cas) < maxCAs {
			cas = append(cas, der)
		}
	}
	return cas
}

// openTrust verifies what is published from the root key on, as an agent does, and takes it over.
func openTrust(f *Fleet, cm *corev1.ConfigMap) error {
	chain, _, err := bundles(cm)
	if err != nil {
		return err
	}
	trust, err := identity.OpenTrust(identity.Pin(spki(f.root.Public())), chain)
	if err != nil {
		return fmt.Errorf("ConfigMap %s/%s does not match the root key in Secret %s: %w. Restore both from one backup, or delete both "+
			"to begin a new fleet: every machine must then enrol again", cm.Namespace, cm.Name, RootSecret, err)
	}
	if trust.FleetID != f.ID {
		return fmt.Errorf("ConfigMap %s/%s is of fleet %s, but Secret %s of fleet %s: restore both from one backup",
			cm.Namespace, cm.Name, trust.FleetID, RootSecret, f.ID)
	}
	f.trust.Store(trust)
	return nil
}

// bundles reads all published bundles, oldest first, and their versions.
func bundles(cm *corev1.ConfigMap) (chain []*agentv1.Envelope, versions []uint64, err error) {
	byVersion := map[uint64]*agentv1.Envelope{}
	for name, text := range cm.Data {
		version, err := strconv.ParseUint(strings.TrimSuffix(name, bundleSuffix), 10, 64)
		if err != nil {
			continue
		}
		if byVersion[version], err = envelope.UnmarshalJSON([]byte(text)); err != nil {
			return nil, nil, fmt.Errorf("ConfigMap %s/%s, %s: %w", cm.Namespace, cm.Name, name, err)
		}
	}
	if len(byVersion) == 0 {
		return nil, nil, fmt.Errorf("ConfigMap %s/%s holds no trust bundle: restore it from a backup, or delete it to have one published anew", cm.Namespace, cm.Name)
	}
	for _, version := range slices.Sorted(maps.Keys(byVersion)) {
		chain, versions = append(chain, byVersion[version]), append(versions, version)
	}
	return chain, versions, nil
}

func addBundle(cm *corev1.ConfigMap, f *Fleet, b *agentv1.TrustBundle) error {
	e, err := envelope.Seal(f.root, envelope.Trust, b)
	if err != nil {
		return err
	}
	text, err := envelope.MarshalJSON(e)
	if err != nil {
		return err
	}
	cm.Data[strconv.FormatUint(b.GetVersion(), 10)+bundleSuffix] = string(text)
	return nil
}

// sameTrust tells whether two bundles say the same, version and time aside.
func sameTrust(a, b *agentv1.TrustBundle) bool {
	return equalSets(a.GetServerCa(), b.GetServerCa()) && equalSets(a.GetAgentCa(), b.GetAgentCa()) &&
		equalSets(keysOf(a, false), keysOf(b, false))
}

func sameRoots(a, b *agentv1.Envelope) bool {
	x, y := &agentv1.TrustBundle{}, &agentv1.TrustBundle{}
	return envelope.Parse(a.GetPayload(), x) == nil && envelope.Parse(b.GetPayload(), y) == nil &&
		equalSets(keysOf(x, true), keysOf(y, true))
}

// keysOf lists a bundle's keys with their uses; the root keys alone if so asked.
func keysOf(b *agentv1.TrustBundle, roots bool) (keys [][]byte) {
	for _, k := range b.GetKeys() {
		if !roots || slices.Contains(k.GetUses(), agentv1.KeyUse_KEY_USE_ROOT) {
			keys = append(keys, fmt.Appendf(nil, "%v %x", k.GetUses(), k.GetSpki()))
		}
	}
	return keys
}

func equalSets(a, b [][]byte) bool {
	subset := func(a, b [][]byte) bool {
		return !slices.ContainsFunc(a, func(x []byte) bool {
			return !slices.ContainsFunc(b, func(y []byte) bool { return bytes.Equal(x, y) })
		})
	}
	return subset(a, b) && subset(b, a)
}

// later is now, or just after what was before where the clock has gone back.
func later(now time.Time, before *timestamppb.Timestamp) time.Time {
	now = now.Truncate(time.Millisecond)
	if before.IsValid() && !now.After(before.AsTime()) {
		return before.AsTime().Add(time.Millisecond)
	}
	return now
}
