//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/hack/local"
	"github.com/rollcall-dev/rollcall/hack/node"
)

const (
	system = local.Namespace
	tenant = "fleet"
	// agents that fleetsim runs; one real agent is beside them.
	agents = 200
	// patience for whatever the node does by itself.
	patience = 2 * time.Minute
)

// trial is everything that is tried on the node.
type trial struct {
	steps
	dir, plane, bin string

	node   *node.Node
	admin  kubernetes.Interface
	person client.WithWatch // with a platform team's rights in the tenant's namespace
	fleet  *fleet
}

func (t *trial) run(ctx context.Context) error {
	for _, s := range []struct {
		name string
		do   func(context.Context) (string, error)
	}{
		{"node", t.startNode},
		{"config/default", func(ctx context.Context) (string, error) { return t.install(ctx, together) }},
		{"agents", t.enrol},
		{"rolling update", func(ctx context.Context) (string, error) { return t.roll(ctx, "rollcall-manager") }},
		{"eviction", t.evict},
		{"drain", t.drain},
		{"kill -9 gateway", func(ctx context.Context) (string, error) { return t.kill(ctx, "gateway") }},
		{"kill -9 manager", func(ctx context.Context) (string, error) { return t.kill(ctx, "manager") }},
		{"API server away", t.outage},
		{"identity", t.identity},
		{"operations.md", t.documented},
		{"overlays/split", t.split},
		{"rolling update", func(ctx context.Context) (string, error) { return t.roll(ctx, "rollcall-gateway") }},
		{"kill -9 gateway", func(ctx context.Context) (string, error) { return t.kill(ctx, "gateway") }},
		{"identity", t.identity},
	} {
		if err := t.do(s.name, func() (string, error) {
			what, err := s.do(ctx)
			if err == nil && t.fleet != nil {
				err = t.fleet.verdict()
			}
			return what, err
		}); err != nil {
			return err
		}
	}
	return nil
}

func (t *trial) startNode(ctx context.Context) (string, error) {
	var err error
	if t.node, err = node.Start(ctx, node.Config{Dir: t.dir, ControlPlane: t.plane, Node: t.bin, Pause: image(t.dir, "pause")}); err != nil {
		return "", err
	}
	for _, program := range []string{"rollcall-manager", "rollcall-gateway"} {
		if err := t.node.Import(ctx, image(t.dir, program)); err != nil {
			return "", err
		}
	}
	t.admin, err = kubernetes.NewForConfig(t.node.Admin)
	return "ready, in namespaces of its own; the images are imported", err
}

// kubectl runs it as the administrator and returns what it printed, warnings and errors apart.
func (t *trial) kubectl(ctx context.Context, args ...string) (stdout, stderr string, err error) {
	cmd := exec.CommandContext(ctx, t.node.Kubectl, append([]string{"--kubeconfig", t.node.Kubeconfig}, args...)...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err = cmd.Run(); err != nil {
		err = fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errOut.String()))
	}
	return out.String(), errOut.String(), err
}

// form is a way to install the processes.
type form struct {
	kustomization string
	deployments   []string
	// patches for a node that pulls no images, and agents of which all have one address.
	patches string
}

const (
	never     = `    - {op: add, path: /spec/template/spec/%s/0/imagePullPolicy, value: Never}` + "\n"
	oneSource = `    - {op: add, path: /spec/template/spec/%s/0/args/-, value: --enroll-rate-source=100}` + "\n" +
		`    - {op: add, path: /spec/template/spec/%[1]s/0/args/-, value: --enroll-rate-token=100}` + "\n" +
		`    - {op: add, path: /spec/template/spec/%[1]s/0/args/-, value: --enroll-rate-total=100}` + "\n"
)

func patch(deployment string, operations ...string) string {
	return "- target: {kind: Deployment, name: " + deployment + "}\n  patch: |\n" + strings.Join(operations, "")
}

var (
	together = form{
		kustomization: "config/default", deployments: []string{"rollcall-manager"},
		patches: patch("rollcall-manager", fmt.Sprintf(never, "containers"), fmt.Sprintf(never, "initContainers"), fmt.Sprintf(oneSource, "initContainers")),
	}
	apart = form{
		kustomization: "config/overlays/split", deployments: []string{"rollcall-manager", "rollcall-gateway"},
		patches: patch("rollcall-manager", fmt.Sprintf(never, "containers")) +
			patch("rollcall-gateway", fmt.Sprintf(never, "containers"), fmt.Sprintf(oneSource, "containers")),
	}
)

// write makes a kustomization of a form as it is shipped, but for images and address.
func (t *trial) write(f form) (string, error) {
	root, err := os.Getwd()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(t.dir, "install", filepath.Base(f.kustomization))
	shipped, err := filepath.Rel(dir, filepath.Join(root, f.kustomization))
	if err != nil {
		return "", err
	}
	manager, gateway := strings.TrimSuffix(managerImage, ":test"), strings.TrimSuffix(gatewayImage, ":test")
	text := `apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [` + shipped + `]
configMapGenerator:
- {name: rollcall-address, namespace: ` + system + `, behavior: merge, literals: [names=` + node.Address + `]}
images:
- {name: ghcr.io/rollcall-dev/rollcall-manager, newName: ` + manager + `, newTag: test}
- {name: ghcr.io/rollcall-dev/rollcall-gateway, newName: ` + gateway + `, newTag: test}
patches:
` + f.patches
	return dir, errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(text), 0o600))
}

// install applies a form and waits until it is rolled out. Pod Security has nothing to warn of.
func (t *trial) install(ctx context.Context, f form) (string, error) {
	dir, err := t.write(f)
	if err != nil {
		return "", err
	}
	out, warnings, err := t.kubectl(ctx, "apply", "-k", dir)
	if err != nil {
		return "", err
	}
	if strings.TrimSpace(warnings) != "" {
		return "", fmt.Errorf("kubectl apply says: %s", warnings)
	}
	for _, d := range f.deployments {
		if err := t.rolledOut(ctx, d); err != nil {
			return "", err
		}
	}
	pods, err := t.pods(ctx, "")
	return fmt.Sprintf("%d objects applied, Pod Security (restricted) warns of nothing; %d Pods are ready", strings.Count(out, "\n"), len(pods)), err
}

// rolledOut waits until a Deployment is, and until the Pods that it replaced are gone.
func (t *trial) rolledOut(ctx context.Context, deployment string) error {
	if _, _, err := t.kubectl(ctx, "rollout", "status", "deployment/"+deployment, "-n", system, "--timeout="+patience.String()); err != nil {
		state, _, _ := t.kubectl(ctx, "get", "pods", "-n", system, "-o", "wide")
		events, _, _ := t.kubectl(ctx, "get", "events", "-n", system, "--sort-by=.lastTimestamp")
		return fmt.Errorf("%w\n%s%s", err, state, events)
	}
	return local.Poll(ctx, patience, 200*time.Millisecond, func() error {
		pods, err := t.pods(ctx, "")
		for _, p := range pods {
			if !ready(p) {
				err = errors.Join(err, fmt.Errorf("the Pod %s is not ready, or on its way out", p.Name))
			}
		}
		return err
	})
}

// pods are those of the system that have a container of this name; "": all.
func (t *trial) pods(ctx context.Context, container string) ([]corev1.Pod, error) {
	list, err := t.admin.CoreV1().Pods(system).List(ctx, everything)
	if err != nil {
		return nil, err
	}
	var found []corev1.Pod
	for _, p := range list.Items {
		if container == "" || restarts(p, container) >= 0 {
			found = append(found, p)
		}
	}
	return found, nil
}

func ready(p corev1.Pod) bool {
	if p.DeletionTimestamp != nil {
		return false
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// restarts of a container; -1: the Pod has none of this name.
func restarts(p corev1.Pod, container string) int {
	for _, all := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
		for _, c := range all {
			if c.Name == container {
				return int(c.RestartCount)
			}
		}
	}
	return -1
}

// enrol lets people's part begin: somebody makes a token, and agents come with it through the Service.
func (t *trial) enrol(ctx context.Context) (string, error) {
	const token = "laptops"
	p, err := local.CreatePerson(ctx, t.node.Admin, tenant, "person", t.dir, token+"-token")
	if err != nil {
		return "", err
	}
	config, err := clientcmd.BuildConfigFromFlags("", p.Kubeconfig)
	if err != nil {
		return "", err
	}
	config.QPS = -1
	scheme := runtime.NewScheme()
	utilruntime.Must(clientgoscheme.AddToScheme(scheme))
	utilruntime.Must(v1alpha1.AddToScheme(scheme))
	if t.person, err = client.NewWithWatch(config, client.Options{Scheme: scheme}); err != nil {
		return "", err
	}
	// A short interval, so that whoever is not heard of is offline within a minute.
	if _, err := local.Kubectl(ctx, t.node.Kubectl, p.Kubeconfig, `
apiVersion: rollcall.dev/v1alpha1
kind: EndpointPolicy
metadata: {name: everybody}
spec: {heartbeat: {intervalSeconds: 15}, commandChannel: {mode: WebSocket, pingIntervalSeconds: 15}}
---
apiVersion: rollcall.dev/v1alpha1
kind: EnrollmentToken
metadata: {name: `+token+`}
spec: {expiresAfterHours: 0}
`, "apply", "-f", "-"); err != nil {
		return "", err
	}
	secret := &corev1.Secret{}
	if err := local.Poll(ctx, patience, 200*time.Millisecond, func() error {
		return t.person.Get(ctx, client.ObjectKey{Namespace: tenant, Name: token + "-token"}, secret)
	}); err != nil {
		return "", err
	}
	service, err := t.admin.CoreV1().Services(system).Get(ctx, "rollcall-gateway", get)
	if err != nil {
		return "", err
	}
	server := fmt.Sprintf("https://%s:%d", node.Address, service.Spec.Ports[0].NodePort)
	t.fleet = &fleet{admin: t.admin, person: t.person, bin: filepath.Join(t.dir, "bin"), logs: t.node.Logs, size: agents + 1}
	if err := t.fleet.start(ctx, t.dir, server, secret.Data["token"]); err != nil {
		return "", err
	}
	err = t.fleet.online(ctx)
	t.fleet.watch(ctx)
	return fmt.Sprintf("%d enrolled at %s and are online; nobody may be shown offline from now on", agents+1, server), err
}
