package controllers_test

import (
	"crypto"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/controllers/keys"
	"github.com/rollcall-dev/rollcall/hack/local"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/identity"
)

var keySecrets = []string{"rollcall-root-key", "rollcall-order-key", "rollcall-agent-ca", "rollcall-server-ca", "rollcall-token-key"}

// forget deletes everything that makes a fleet, so that the next manager begins a new one.
func forget(t *testing.T, c client.Client) {
	t.Helper()
	for _, name := range keySecrets {
		deleteNow(t, c, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: local.Namespace, Name: name}})
	}
	for _, name := range []string{"rollcall-trust", "rollcall-beacon"} {
		deleteNow(t, c, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: local.Namespace, Name: name}})
	}
}

func deleteNow(t *testing.T, c client.Client, o client.Object) {
	t.Helper()
	if err := client.IgnoreNotFound(c.Delete(t.Context(), o)); err != nil {
		t.Fatal(err)
	}
}

func configMap(t *testing.T, c client.Client, name string) *corev1.ConfigMap {
	t.Helper()
	cm := &corev1.ConfigMap{}
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: local.Namespace, Name: name}, cm); err != nil {
		t.Fatal(err)
	}
	return cm
}

// published opens what agents get, from the pin in a token on.
func published(t *testing.T, c client.Client, token identity.Token) (*identity.Trust, []string) {
	t.Helper()
	cm := configMap(t, c, "rollcall-trust")
	delete(cm.Data, "fleet-id")
	names := slices.Sorted(maps.Keys(cm.Data))
	var chain []*agentv1.Envelope
	for _, name := range names {
		e, err := envelope.UnmarshalJSON([]byte(cm.Data[name]))
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, e)
	}
	trust, err := identity.OpenTrust(token.RootPin, chain)
	if err != nil {
		t.Fatalf("an agent does not accept %v: %v", names, err)
	}
	return trust, names
}

// beaconBy waits for a beacon that verifies with these keys, and returns it.
func beaconBy(t *testing.T, c client.Client, keys []crypto.PublicKey) *agentv1.Beacon {
	t.Helper()
	b := &agentv1.Beacon{}
	eventually(t, func() error {
		e, err := envelope.UnmarshalJSON([]byte(configMap(t, c, "rollcall-beacon").Data["beacon.json"]))
		if err != nil {
			return err
		}
		return envelope.Open(e, envelope.Beacon, b, keys...)
	})
	return b
}

func TestTwoManagersBeginOneFleet(t *testing.T) {
	setup(t)
	c := admin(t)
	forget(t, c)
	started := make(chan *local.Process, 2)
	for range 2 {
		s := system(t)
		go func() {
			p, err := s.StartManager(t.Context())
			if err != nil {
				t.Error(err)
			}
			started <- p
		}()
	}
	fleet := ""
	for range 2 {
		p := <-started
		t.Cleanup(func() { stop(t, p) })
		said := tailWith(t, p, "The manager starts.")
		_, id, _ := strings.Cut(said, `"fleet": "`)
		id, _, _ = strings.Cut(id, `"`)
		if !identity.IsUUID(id) || fleet != "" && id != fleet {
			t.Errorf("one manager says fleet %q, the other %q", fleet, id)
		}
		fleet = id
	}
	if got := fleetID(t, c); got != fleet {
		t.Errorf("published is fleet %s, they run %s", got, fleet)
	}
}

// TestManyBeginOneFleet is the same, where they are sure to collide.
func TestManyBeginOneFleet(t *testing.T) {
	setup(t)
	forget(t, admin(t))
	store := keys.Store{Client: as(t, local.ManagerAccount), Namespace: local.Namespace}
	var wg sync.WaitGroup
	fleets := make([]*keys.Fleet, 8)
	for i := range fleets {
		wg.Go(func() {
			var err error
			if fleets[i], err = store.Ensure(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, f := range fleets {
		if t.Failed() {
			return
		}
		if f.ID != fleets[0].ID || f.Token(f.ID) != fleets[0].Token(f.ID) || !f.AgentCA.Certificate.Equal(fleets[0].AgentCA.Certificate) ||
			!f.ServerCA.Certificate.Equal(fleets[0].ServerCA.Certificate) || !cmp.Equal(f.Orders.Public(), fleets[0].Orders.Public()) {
			t.Error("two of them hold different keys")
		}
	}
}

// tailWith waits for a line in a manager's log.
func tailWith(t *testing.T, p *local.Process, text string) (line string) {
	t.Helper()
	eventually(t, func() error {
		for l := range strings.Lines(local.Tail(p.Log, 1000)) {
			if strings.Contains(l, text) {
				line = l
				return nil
			}
		}
		return fmt.Errorf("the log does not say %q", text)
	})
	return line
}

func TestManagerKilledWhileItMakesTheKeys(t *testing.T) {
	setup(t)
	c := admin(t)
	points := append([]string{"trust"}, keySecrets...)
	for _, point := range points {
		t.Run(point, func(t *testing.T) {
			forget(t, c)
			dies(t, point)
			startManager(t)
			ns := world.api.Namespace(t)
			_, token := newToken(t, c, ns, "token", v1alpha1.EnrollmentTokenSpec{})
			trust, _ := published(t, c, token)
			if trust.FleetID != fleetID(t, c) || trust.Version != 1 {
				t.Errorf("got fleet %s, version %d", trust.FleetID, trust.Version)
			}
			if b := beaconBy(t, c, trust.Orders); b.GetTrustVersion() != 1 || b.GetFleetId() != trust.FleetID {
				t.Errorf("the beacon says %v", b)
			}
		})
	}
}

func TestReplacedKeysArePublished(t *testing.T) {
	setup(t)
	c := admin(t)
	forget(t, c)
	first := startManager(t)
	_, token := newToken(t, c, world.api.Namespace(t), "token", v1alpha1.EnrollmentTokenSpec{})
	before, _ := published(t, c, token)
	old := beaconBy(t, c, before.Orders)
	first.Stop(3 * time.Second)

	restart := func(secret string, args ...string) (*identity.Trust, []string) {
		if secret != "" {
			deleteNow(t, c, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: local.Namespace, Name: secret}})
		}
		was, _ := published(t, c, token)
		p := startManager(t, args...)
		defer p.Stop(3 * time.Second)
		eventually(t, func() error {
			if now, _ := published(t, c, token); now.Version == was.Version {
				return errors.New("no newer bundle yet")
			}
			return nil
		})
		now, names := published(t, c, token)
		beaconBy(t, c, now.Orders)
		return now, names
	}
	after, names := restart("rollcall-order-key")
	if after.Version != 2 || len(after.Orders) != 2 || !cmp.Equal(after.Orders[1], before.Orders[0]) {
		t.Errorf("want bundle 2 with another order key before the old one, got bundle %d with %d keys", after.Version, len(after.Orders))
	}
	if b := beaconBy(t, c, after.Orders[:1]); b.GetTrustVersion() != 2 || !b.GetIssuedAt().AsTime().After(old.GetIssuedAt().AsTime()) {
		t.Errorf("after %v came the beacon %v", old, b)
	}
	if want := []string{"1.json", "2.json"}; !slices.Equal(names, want) {
		t.Errorf("published are %v, want %v", names, want)
	}
	after, names = restart("rollcall-agent-ca")
	if after.Version != 3 || len(after.AgentCAs) != 2 || !after.AgentCAs[1].Equal(before.AgentCAs[0]) {
		t.Errorf("want bundle 3 with a new agent CA before the old one, got bundle %d with %d", after.Version, len(after.AgentCAs))
	}
	if want := []string{"1.json", "3.json"}; !slices.Equal(names, want) {
		t.Errorf("published are %v, want %v: the first, and the newest", names, want)
	}
	after, _ = restart("", "--order-key-overlap=1s") // it has leaked
	if after.Version != 4 || len(after.Orders) != 1 || cmp.Equal(after.Orders, before.Orders) {
		t.Errorf("want bundle 4 without the old order key, got bundle %d with %d", after.Version, len(after.Orders))
	}
}

func TestManagerKilledWhileItPublishesReplacedKeys(t *testing.T) {
	setup(t)
	c := admin(t)
	first := startManager(t)
	_, token := newToken(t, c, world.api.Namespace(t), "token", v1alpha1.EnrollmentTokenSpec{})
	before, _ := published(t, c, token)
	first.Stop(3 * time.Second)
	deleteNow(t, c, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: local.Namespace, Name: "rollcall-order-key"}})
	dies(t, "trust")
	startManager(t)
	beaconBy(t, c, func() []crypto.PublicKey { trust, _ := published(t, c, token); return trust.Orders }())
	if after, _ := published(t, c, token); after.Version != before.Version+1 {
		t.Errorf("bundle %d came after %d", after.Version, before.Version)
	}
}

func TestALostRootKeyIsNotReplaced(t *testing.T) {
	setup(t)
	c := admin(t)
	first := startManager(t)
	first.Stop(3 * time.Second)
	root := &corev1.Secret{}
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: local.Namespace, Name: "rollcall-root-key"}, root); err != nil {
		t.Fatal(err)
	}
	deleteNow(t, c, root.DeepCopy())
	p := launchManager(t)
	<-p.Done()
	if said := local.Tail(p.Log, 3); p.Err() == nil || !strings.Contains(said, "Restore it from a backup") {
		t.Errorf("it ended with %v and said:\n%s", p.Err(), said)
	}
	root.ResourceVersion, root.UID = "", ""
	if err := c.Create(t.Context(), root); err != nil {
		t.Fatal(err)
	}
	startManager(t) // and goes on with it
}
