package store

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/identity"
)

// What the manager publishes in its namespace.
const (
	trustConfigMap  = "rollcall-trust"  // data: <version>.json, DSSE JSON of a TrustBundle
	beaconConfigMap = "rollcall-beacon" // data: beacon.json, DSSE JSON of a Beacon
	bundleSuffix    = ".json"
	beaconKey       = "beacon.json"
)

// After is what an agent with the given version lacks, as much of it as one answer may carry.
func (t *Trust) After(version uint64) []*agentv1.Envelope {
	i, found := slices.BinarySearch(t.Versions, version)
	if found {
		i++
	}
	return t.Bundles[i:min(len(t.Bundles), i+identity.MaxTrustPerReply)]
}

// published keeps the newest good state of a ConfigMap of the manager's. One that does not parse, or is deleted, changes nothing: what was
// signed stays true.
type published[T any] struct {
	log     logr.Logger
	parse   func(*corev1.ConfigMap) (*T, error)
	changed func()

	data    map[string]string // that now was made of
	now     atomic.Pointer[T]
	trouble atomic.Pointer[error]
}

func (p *published[T]) event(cm *corev1.ConfigMap) {
	if p.data != nil && maps.Equal(p.data, cm.Data) { // read again, after a while without the API server
		return
	}
	v, err := p.parse(cm)
	if err != nil {
		err = fmt.Errorf("ConfigMap %s/%s: %w", cm.Namespace, cm.Name, err)
		p.log.Error(err, "What the manager published is not usable. The last that was stays in use.")
		p.trouble.Store(&err)
		return
	}
	p.data = cm.Data
	p.trouble.Store(nil)
	p.now.Store(v)
	p.changed()
}

func (p *published[T]) drop(cm *corev1.ConfigMap) {
	p.log.Info("What the manager published was deleted. The last that was there stays in use.", "namespace", cm.Namespace, "configMap", cm.Name)
}

func (p *published[T]) replace(all []*corev1.ConfigMap) {
	for _, cm := range all {
		p.event(cm)
	}
}

// missing says why there is nothing to serve; nil if there is.
func (p *published[T]) missing(namespace, name string) error {
	if p.now.Load() != nil {
		return nil
	}
	if err := p.trouble.Load(); err != nil {
		return *err
	}
	return fmt.Errorf("ConfigMap %s/%s does not exist: the manager makes it when it starts", namespace, name)
}

// parseTrust reads all bundles and verifies each by the one before. The first is believed: the manager alone may write here, and agents
// hold the pin.
func parseTrust(cm *corev1.ConfigMap) (*Trust, error) {
	byVersion := map[uint64]*agentv1.Envelope{}
	for name, text := range cm.Data {
		version, err := strconv.ParseUint(strings.TrimSuffix(name, bundleSuffix), 10, 64)
		if err != nil || !strings.HasSuffix(name, bundleSuffix) {
			continue
		}
		if byVersion[version], err = envelope.UnmarshalJSON([]byte(text)); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	if len(byVersion) == 0 {
		return nil, errors.New("it has no trust bundle (<version>.json)")
	}
	t := &Trust{Versions: slices.Sorted(maps.Keys(byVersion))}
	for _, v := range t.Versions {
		t.Bundles = append(t.Bundles, byVersion[v])
	}
	var err error
	if t.Trust, err = openTrust(t.Bundles); err != nil {
		return nil, err
	}
	if newest := t.Versions[len(t.Versions)-1]; t.Version != newest {
		return nil, fmt.Errorf("%d%s holds version %d", newest, bundleSuffix, t.Version)
	}
	return t, nil
}

func openTrust(chain []*agentv1.Envelope) (*identity.Trust, error) {
	first := &agentv1.TrustBundle{}
	if err := envelope.Parse(chain[0].GetPayload(), first); err != nil {
		return nil, err
	}
	err := errors.New("its first trust bundle has no root key")
	for _, k := range first.GetKeys() {
		if !slices.Contains(k.GetUses(), agentv1.KeyUse_KEY_USE_ROOT) {
			continue
		}
		var t *identity.Trust
		if t, err = identity.OpenTrust(identity.Pin(k.GetSpki()), chain); err == nil {
			return t, nil
		}
	}
	return nil, err
}

func parseBeacon(cm *corev1.ConfigMap) (*agentv1.Envelope, error) {
	text, ok := cm.Data[beaconKey]
	if !ok {
		return nil, fmt.Errorf("it has no %s", beaconKey)
	}
	e, err := envelope.UnmarshalJSON([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", beaconKey, err)
	}
	if err := envelope.Check(e, envelope.Beacon); err != nil {
		return nil, fmt.Errorf("%s: %w", beaconKey, err)
	}
	return e, nil
}
