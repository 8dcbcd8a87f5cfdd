package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/hack/local"
	"github.com/rollcall-dev/rollcall/test/audit"
	"github.com/rollcall-dev/rollcall/test/harness"
)

// TestContent releases content to fifty agents on sessions, and to see what becomes of it looks where people look.
func TestContent(t *testing.T) {
	t.Parallel()
	const agents, interval = 50, 5 * time.Second
	s := calmSystem(t)
	n := s.tenant(t, "fleet")
	p := believed(t, s)
	n.Apply(t, fmt.Sprintf(`{apiVersion: rollcall.dev/v1alpha1, kind: EndpointPolicy, metadata: {name: fast}, spec: {heartbeat: {intervalSeconds: %d, missed: 10}}}`, int(interval.Seconds())))
	startFleetsim(t, s, "fleetsim", fleetToken(t, n), agents, append([]string{"--content-retry=500ms"}, sessionAgent...)...)
	allConnected(t, n, agents)
	r := &roll{t, s, n, p, agents}

	t.Run("a fleet of 50 has it within two heartbeats", func(t *testing.T) {
		before := len(contentWrites(t, s, n.ns))
		r.publish("1042")
		began := time.Now()
		r.allRun("1042")
		if took := time.Since(began); took > 2*interval+interval/2 {
			t.Errorf("it took %s", took)
		} else {
			t.Logf("all %d run it after %s; they beat every %s", agents, took.Round(100*time.Millisecond), interval)
		}
		r.says("content-1042", fmt.Sprintf("all %d run it", agents))
		t.Logf("kubectl get ctr:\n%s", n.Kubectl(t, "get", "ctr"))
		byResource := map[string]int{}
		for _, w := range contentWrites(t, s, n.ns)[before:] {
			byResource[w]++
		}
		t.Logf("writes, by the API server's audit log: %v", byResource)
		if got := byResource[audit.Gateway+" endpoints/status"]; got > agents {
			t.Errorf("%d writes to record it on %d endpoints", got, agents)
		}
		if got := byResource[audit.Manager+" contentreleases/status"]; got > 2+int(2*interval/time.Second)+4 {
			t.Errorf("%d writes to decide and to count", got)
		}
	})
	t.Run("withdrawn, and all go back", func(t *testing.T) {
		r.publish("1043")
		r.allRun("1043")
		r.patch("content-1043", `{"spec":{"state":"Withdrawn"}}`)
		r.allRun("1042")
		r.says("content-1043", "withdrawn: nobody runs it")
	})
	t.Run("pinned, and not any more", func(t *testing.T) {
		r.publish("1041")
		n.Kubectl(t, "patch", "epp", "fast", "--type=merge", "-p", `{"spec":{"content":{"mode":"Pinned","version":"1041"}}}`)
		r.allRun("1041")
		n.Kubectl(t, "patch", "epp", "fast", "--type=merge", "-p", `{"spec":{"content":null}}`)
		r.allRun("1042")
	})
	t.Run("tampered in the store: refused, the old stays in use, and the store is mended", func(t *testing.T) {
		r.publish("1044", func(c *v1alpha1.ContentRelease) { c.Spec.State = v1alpha1.ReleasePaused })
		r.says("content-1044", fmt.Sprintf("paused: 0 of %d run it, it is offered to nobody new", agents))
		digest := string(get[v1alpha1.ContentRelease](t, n, "content-1044").Spec.Source.SHA256)
		file := filepath.Join(s.Dir, "artifacts", "sha256", digest)
		good, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, bytes.ToUpper(good), 0o600); err != nil {
			t.Fatal(err)
		}
		r.patch("content-1044", `{"spec":{"state":null}}`)
		var row string
		harness.Eventually(t, 30*time.Second, func() error {
			out := n.Kubectl(t, "get", "fep", "--no-headers")
			for _, line := range lines(out) {
				if strings.Contains(line, "Failing") && strings.Contains(line, "1044 not applied") {
					row = line
					return nil
				}
			}
			return errors.New(lines(out)[0])
		})
		t.Log(row)
		if !strings.Contains(row, " 1042 ") || !strings.Contains(row, "content 1044 not applied: the downloaded file's digest differs from the signed offer") {
			t.Errorf("kubectl get fep shows %q", row)
		}
		r.allRun("1044")
	})
	t.Run("a release that is no content is refused before anybody is offered it", func(t *testing.T) {
		cm, c := p.Release(n.ns, "1045", []byte(`{"format":"rollcall.content/v1","version":"1045","rules":[{"id":"a","severity":"high","regexp":"x"}]}`))
		r.create(cm, c)
		r.says("content-1045", `the file does not parse: unknown field "rules[0].regexp"`)
		t.Logf("kubectl get ctr:\n%s", n.Kubectl(t, "get", "ctr"))
		r.allRun("1044")
	})
}

// believed is a publisher whose releases the fleet of a system believes.
func believed(t testing.TB, s *system) local.Publisher {
	t.Helper()
	p, err := local.NewPublisher()
	if err != nil {
		t.Fatal(err)
	}
	err = s.api.Client(t, "").Create(t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: local.Namespace, Name: "rollcall-release-keys"}, Data: map[string]string{"test.pub": p.PublicKey()},
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// roll is content that rolls over a fleet.
type roll struct {
	*testing.T
	s      *system
	n      *tenant
	p      local.Publisher
	agents int
}

func (r *roll) create(all ...client.Object) {
	r.Helper()
	for _, o := range all {
		if err := r.n.Client.Create(r.Context(), o); err != nil {
			r.Fatal(err)
		}
	}
}

// publish creates a release, and waits until it is verified.
func (r *roll) publish(version string, change ...func(*v1alpha1.ContentRelease)) {
	r.Helper()
	cm, c := r.p.Release(r.n.ns, version, local.Document(version))
	for _, f := range change {
		f(c)
	}
	r.create(cm, c)
	r.n.Kubectl(r.T, "wait", "ctr/"+c.Name, "--for=condition=Ready", "--timeout=20s")
}

func (r *roll) patch(name, patch string) {
	r.Helper()
	c := &v1alpha1.ContentRelease{ObjectMeta: metav1.ObjectMeta{Namespace: r.n.ns, Name: name}}
	if err := r.n.Client.Patch(r.Context(), c, client.RawPatch(types.MergePatchType, []byte(patch))); err != nil {
		r.Fatal(err)
	}
}

// allRun waits until every endpoint is seen to run a version, and none to fail.
func (r *roll) allRun(version string) {
	r.Helper()
	harness.Eventually(r.T, 60*time.Second, func() error {
		other := ""
		running := r.n.counted(r.T, func(e v1alpha1.EndpointStatus) bool {
			ok := e.Agent != nil && string(e.Agent.ContentVersion) == version && e.Agent.ContentError == ""
			if !ok && e.Agent != nil {
				other = fmt.Sprintf("one runs %q, %s", e.Agent.ContentVersion, e.Agent.ContentError)
			}
			return ok
		})
		if running != r.agents {
			return fmt.Errorf("%d of %d run %s; %s", running, r.agents, version, other)
		}
		return nil
	})
}

// says waits for the message of a release.
func (r *roll) says(name, message string) {
	r.Helper()
	harness.Eventually(r.T, 20*time.Second, func() error {
		if c := get[v1alpha1.ContentRelease](r.T, r.n, name); c.Status.Rollout == nil || c.Status.Rollout.Message != message {
			return fmt.Errorf("%s says %+v, want %q", name, c.Status.Rollout, message)
		}
		return nil
	})
}

// contentWrites are the writes to statuses in a namespace by the audit log so far, each as who and what.
func contentWrites(t testing.TB, s *system, namespace string) (all []string) {
	t.Helper()
	err := audit.Read(s.api.AuditLog, func(e audit.Event) {
		if o := e.ObjectRef; e.Wrote() && o.APIGroup == "rollcall.dev" && o.Namespace == namespace && o.Subresource == "status" {
			all = append(all, e.By()+" "+o.Resource+"/status")
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
