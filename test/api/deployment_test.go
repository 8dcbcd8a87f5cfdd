package api_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/rollcall-dev/rollcall/test/harness"
)

// deployments are those of a kustomization, by name.
func deployments(t *testing.T, kustomization string) map[string]*appsv1.Deployment {
	t.Helper()
	return deploymentsIn(t, config(kustomization))
}

func deploymentsIn(t *testing.T, dir string) map[string]*appsv1.Deployment {
	t.Helper()
	found := map[string]*appsv1.Deployment{}
	all := utilyaml.NewYAMLReader(bufio.NewReader(strings.NewReader(harness.Cluster(t).Kubectl(t, "kustomize", dir))))
	for {
		document, err := all.Read()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(document, []byte("\nkind: Deployment\n")) {
			continue
		}
		d := &appsv1.Deployment{}
		if err := yaml.UnmarshalStrict(document, d); err != nil {
			t.Fatal(err)
		}
		found[d.Name] = d
	}
}

const (
	shippedTogether = "default"
	shippedApart    = "overlays/split"
	podFiles        = "/var/run/secrets/kubernetes.io/serviceaccount"
)

// mounted tells what a container sees: the path of each mount, and what is there.
func mounted(t *testing.T, d *appsv1.Deployment, container string) map[string]string {
	t.Helper()
	seen := map[string]string{}
	spec := d.Spec.Template.Spec
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		if c.Name != container {
			continue
		}
		for _, e := range c.Env {
			if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
				seen["$"+e.Name] = "a Secret"
			}
		}
		for _, m := range c.VolumeMounts {
			how := map[bool]string{true: "read only", false: "writable"}[m.ReadOnly]
			seen[m.MountPath] = content(t, spec.Volumes[slices.IndexFunc(spec.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name })]) + ", " + how
		}
	}
	return seen
}

func content(t *testing.T, v corev1.Volume) string {
	t.Helper()
	switch {
	case v.EmptyDir != nil && v.EmptyDir.Medium == corev1.StorageMediumMemory:
		return "memory"
	case v.EmptyDir != nil:
		return "disk"
	case v.PersistentVolumeClaim != nil:
		return "claim " + v.PersistentVolumeClaim.ClaimName
	case v.Projected != nil:
		var parts []string
		for _, s := range v.Projected.Sources {
			switch {
			case s.ServiceAccountToken != nil:
				parts = append(parts, "token")
			case s.ConfigMap != nil:
				parts = append(parts, s.ConfigMap.Name)
			case s.DownwardAPI != nil:
				parts = append(parts, "namespace")
			default:
				t.Errorf("volume %s projects what nobody has thought about", v.Name)
			}
		}
		return strings.Join(parts, "+")
	}
	t.Errorf("volume %s is of a type that nobody has thought about", v.Name)
	return ""
}

// The gateway is assumed seizable: it sees its own token and nobody's keys. All that each container sees is written out here.
func TestWhatEachContainerMounts(t *testing.T) {
	const own, artifacts, handover = "token+kube-root-ca.crt+namespace, read only", "/var/lib/rollcall/artifacts", "/run/rollcall/gateway"
	for _, tc := range []struct {
		kustomization, deployment, account, container string
		want                                          map[string]string
	}{
		{shippedTogether, "rollcall-manager", "rollcall-manager", "manager", map[string]string{podFiles: own, handover: "memory, writable", artifacts: "disk, writable"}},
		{shippedTogether, "rollcall-manager", "rollcall-manager", "gateway", map[string]string{podFiles: "kube-root-ca.crt, read only", handover: "memory, read only", artifacts: "disk, read only"}},
		{shippedApart, "rollcall-manager", "rollcall-manager", "manager", map[string]string{podFiles: own, artifacts: "disk, writable"}},
		{shippedApart, "rollcall-gateway", "rollcall-gateway", "gateway", map[string]string{podFiles: own, artifacts: "disk, read only"}},
	} {
		t.Run(tc.kustomization+"/"+tc.container, func(t *testing.T) {
			d := deployments(t, tc.kustomization)[tc.deployment]
			if d == nil {
				t.Fatal("there is no such Deployment")
			}
			if diff := cmp.Diff(tc.want, mounted(t, d, tc.container)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			spec := d.Spec.Template.Spec
			if spec.ServiceAccountName != tc.account || spec.AutomountServiceAccountToken == nil || *spec.AutomountServiceAccountToken {
				t.Errorf("account %s, automount %v", spec.ServiceAccountName, spec.AutomountServiceAccountToken)
			}
		})
	}
}

// Apart, the two see one directory when the component is there, as docs/operations.md shows it, and the manager knows that they do.
func TestSharedArtifacts(t *testing.T) {
	dir := asShown(t, "docs/operations.md", "config/components/shared-artifacts")
	all := deploymentsIn(t, dir)
	const artifacts = "/var/lib/rollcall/artifacts"
	for container, want := range map[string]string{"manager": "claim rollcall-artifacts, writable", "gateway": "claim rollcall-artifacts, read only"} {
		d := all["rollcall-"+container]
		if got := mounted(t, d, container)[artifacts]; got != want {
			t.Errorf("the %s has %s, want %s", container, got, want)
		}
		if shared := slices.Contains(d.Spec.Template.Spec.Containers[0].Args, "--artifact-store-shared"); shared != (container == "manager") {
			t.Errorf("the arguments of the %s are %v", container, d.Spec.Template.Spec.Containers[0].Args)
		}
	}
	harness.Cluster(t).Kubectl(t, "apply", "-k", dir, "--dry-run=server")
}

// The namespace admits none but Pods that keep to the restricted standard; kubectl would only warn of a Deployment.
func TestPodSecurityAdmitsThePods(t *testing.T) {
	client := admin(t).kube
	for _, kustomization := range []string{shippedTogether, shippedApart} {
		for name, d := range deployments(t, kustomization) {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: name + "-", Labels: d.Spec.Template.Labels}, Spec: d.Spec.Template.Spec}
			if _, err := client.CoreV1().Pods(system).Create(t.Context(), pod.DeepCopy(), metav1.CreateOptions{DryRun: dryRun}); err != nil {
				t.Errorf("%s: %v", kustomization, err)
			}
			pod.Spec.SecurityContext.RunAsNonRoot = nil
			if _, err := client.CoreV1().Pods(system).Create(t.Context(), pod, metav1.CreateOptions{DryRun: dryRun}); err == nil || !strings.Contains(err.Error(), "violates PodSecurity") {
				t.Errorf("%s as root: %v", kustomization, err)
			}
		}
	}
}

// Probes, resources and settings of a gateway are written twice; they may differ in how it comes to its token alone.
func TestTheGatewaysOfBothFormsAreAlike(t *testing.T) {
	beside := deployments(t, shippedTogether)["rollcall-manager"].Spec.Template.Spec
	apart := deployments(t, shippedApart)["rollcall-gateway"].Spec.Template.Spec
	one, other := beside.InitContainers[0], apart.Containers[0]
	one.RestartPolicy = nil
	one.Args = slices.DeleteFunc(one.Args, func(a string) bool { return strings.HasPrefix(a, "--token-file=") })
	one.VolumeMounts, other.VolumeMounts = nil, nil
	if diff := cmp.Diff(one, other); diff != "" {
		t.Errorf("(-beside +apart):\n%s", diff)
	}
	if diff := cmp.Diff(beside.SecurityContext, apart.SecurityContext); diff != "" || *beside.TerminationGracePeriodSeconds != *apart.TerminationGracePeriodSeconds {
		t.Errorf("the Pods differ: %s", diff)
	}
}

// The API server says in its answer which FlowSchema a request was sorted by.
func TestRequestsAreSortedByTheirAccount(t *testing.T) {
	client := admin(t).kube
	const leases = "/apis/coordination.k8s.io/v1/namespaces/rollcall-system/leases/gw-none"
	const endpoints = "/apis/rollcall.dev/v1alpha1/endpoints?limit=1"
	for _, tc := range []struct{ account, path, schema string }{
		{"rollcall-manager", endpoints, "rollcall-manager"},
		{"rollcall-gateway", endpoints, "rollcall-gateway"},
		{"rollcall-manager", leases, "rollcall-leases"},
		{"rollcall-gateway", leases, "rollcall-leases"},
	} {
		schema, err := client.FlowcontrolV1().FlowSchemas().Get(t.Context(), tc.schema, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range schema.Status.Conditions {
			if c.Type == flowcontrolv1.FlowSchemaConditionDangling && c.Status == flowcontrolv1.ConditionTrue {
				t.Errorf("%s: %s", tc.schema, c.Message)
			}
		}
		who := serviceAccount(t, system, tc.account)
		harness.Eventually(t, 20*time.Second, func() error { // the API server learns of a new one by a watch
			if got := sortedBy(t, who.config, tc.path); got != string(schema.UID) {
				return errors.New(tc.account + " " + tc.path + ": not by " + tc.schema)
			}
			return nil
		})
	}
}

// sortedBy is the UID of the FlowSchema.
func sortedBy(t *testing.T, config *rest.Config, path string) string {
	t.Helper()
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Get(config.Host + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNotFound {
		t.Errorf("%s: %s", path, resp.Status)
	}
	return resp.Header.Get("X-Kubernetes-Pf-Flowschema-Uid")
}

// A cluster of their own: a form that is applied beside the other would change it under another test.
func TestTheOtherForms(t *testing.T) {
	api := ownCluster(t)
	for _, what := range []string{config(shippedApart), asShown(t, "docs/operations.md", "config/components/protect-enrolled")} {
		t.Run(filepath.Base(what), func(t *testing.T) {
			api.Kubectl(t, "apply", "-k", what)
			allUnchanged(t, api.Kubectl(t, "apply", "-k", what))
			kubectl := func(args ...string) (string, error) { return api.TryKubectl(t, "", args...) }
			noDifference(t, kubectl, "diff", "-k", what)
			noDifference(t, kubectl, "diff", "--server-side", "--field-manager=gitops", "-k", what)
		})
	}
	t.Run("the address is in every container", func(t *testing.T) { theAddress(t, api) })
	t.Run("whoever has enrolled is protected", func(t *testing.T) { protects(t, api) })
}

// theAddress looks for what docs/operations.md sets, in a Deployment that was applied as it says.
func theAddress(t *testing.T, api *harness.API) {
	names := api.Kubectl(t, "get", "configmap", "-n", system, "-o", `jsonpath={range .items[*]}{.metadata.name}={.data.names} {end}`)
	used := api.Kubectl(t, "get", "deployment", "rollcall-manager", "-n", system, "-o",
		`jsonpath={.spec.template.spec.containers[0].env[?(@.name=="ROLLCALL_NAMES")].valueFrom.configMapKeyRef.name} {.spec.template.spec.initContainers[0].env[?(@.name=="ROLLCALL_NAMES")].valueFrom.configMapKeyRef.name}`)
	manager, gateway, _ := strings.Cut(used, " ")
	if manager == "" || manager != gateway || !strings.Contains(names, manager+"=rollcall.example.com,203.0.113.7 ") {
		t.Errorf("the manager reads %s, the gateway %s, of %s", manager, gateway, names)
	}
}

// protects deletes Endpoints, of which some have enrolled, and at last their namespace.
func protects(t *testing.T, api *harness.API) {
	ns := api.Namespace(t)
	enrolled := map[string]string{"agent-04": "", "active": "Active", "suspended": "Suspended", "decommissioned": "Decommissioned", "blocked": "Blocked"}
	for name, lifecycle := range maps.All(enrolled) {
		spec := ""
		if lifecycle != "" {
			spec = "lifecycle: " + lifecycle
		}
		manifest := "apiVersion: rollcall.dev/v1alpha1\nkind: Endpoint\nmetadata: {name: " + name + ", namespace: " + ns + "}\nspec: {" + spec + "}\n"
		if _, err := api.TryKubectl(t, manifest, "create", "-f", "-"); err != nil {
			t.Fatal(err)
		}
		api.Kubectl(t, "patch", "fep", name, "-n", ns, "--subresource=status", "--type=merge", "-p",
			`{"status":{"identity":{"id":"0b9a43c2-6a1c-4a52-9e11-0d7b4c6e8f10","enrolledTime":"2026-01-01T00:00:00Z","publicKeys":["`+strings.Repeat("AAAA", 22)+`"]}}}`)
	}
	if _, err := api.TryKubectl(t, "apiVersion: rollcall.dev/v1alpha1\nkind: Endpoint\nmetadata: {name: declared, namespace: "+ns+"}\n", "create", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"agent-04", "active", "suspended"} {
		want := name + " has enrolled and would be locked out: set spec.lifecycle to Decommissioned or Blocked first"
		harness.Eventually(t, time.Minute, func() error { // until the API server knows the policy
			if _, err := api.TryKubectl(t, "", "delete", "fep", name, "-n", ns, "--dry-run=server"); err == nil || !strings.Contains(err.Error(), want) {
				return errors.Join(errors.New("no refusal with: "+want), err)
			}
			return nil
		})
	}
	_, err := api.TryKubectl(t, "", "delete", "fep", "agent-04", "-n", ns)
	_, printed, _ := strings.Cut(fmt.Sprint(err), "exit status 1: ")
	golden(t, "protect-enrolled.txt", "$ kubectl delete fep agent-04\n"+printed+"\n")
	for _, name := range []string{"declared", "decommissioned", "blocked"} {
		api.Kubectl(t, "delete", "fep", name, "-n", ns)
	}
	api.Kubectl(t, "delete", "namespace", ns, "--timeout=60s")
}
