package api_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	clientscheme "k8s.io/client-go/kubernetes/scheme"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/test/harness"
)

// manifests decodes every object under config/ strictly: an unknown or doubled field is an error.
func manifests(t *testing.T, under string) map[string][]runtime.Object {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientscheme.AddToScheme, apiextensionsv1.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	found := map[string][]runtime.Object{}
	root := filepath.Join(harness.Root(), "config")
	err := filepath.WalkDir(filepath.Join(root, under), func(path string, d fs.DirEntry, err error) error {
		if path == filepath.Join(root, "health") { // for the configuration of other programs
			return filepath.SkipDir
		}
		if err != nil || d.IsDir() || filepath.Ext(path) != ".yaml" || d.Name() == "kustomization.yaml" {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(root, path)
		documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(content)))
		for {
			document, err := documents.Read()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			object, _, err := decoder.Decode(document, nil, nil)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			found[name] = append(found[name], object)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestEveryManifestDecodesStrictly(t *testing.T) {
	found := manifests(t, "")
	for _, name := range []string{"samples/endpoint_declared.yaml", "rbac/gateway.yaml", "policy/gateway-csr.yaml", "crd/bases/rollcall.dev_endpoints.yaml", "components/requested-by-stamp/policy.yaml"} {
		if len(found[name]) == 0 {
			t.Errorf("%s has no object", name)
		}
	}
}

// generated tells whether an object has no name of its own: kubectl create makes one, kubectl apply does not.
func generated(objects []runtime.Object) bool {
	return slices.ContainsFunc(objects, func(o runtime.Object) bool {
		m, err := meta.Accessor(o)
		return err == nil && m.GetGenerateName() != ""
	})
}

// A kustomization that forgets a file ships a cluster without it.
func TestEveryManifestIsInItsKustomization(t *testing.T) {
	root := filepath.Join(harness.Root(), "config")
	for name, objects := range manifests(t, "") {
		dir, file := filepath.Split(name)
		if strings.HasSuffix(dir, "bases/") {
			dir, file = filepath.Dir(filepath.Clean(dir)), "bases/"+file
		}
		kustomization, err := os.ReadFile(filepath.Join(root, dir, "kustomization.yaml"))
		if err != nil {
			t.Error(err)
			continue
		}
		switch is := strings.Contains(string(kustomization), "\n- "+file+"\n"); {
		case generated(objects) && is:
			t.Errorf("config/%s generates its name, and kubectl apply -k config/%s refuses that", name, filepath.Clean(dir))
		case !generated(objects) && !is:
			t.Errorf("config/%s is not a resource of config/%s/kustomization.yaml", name, filepath.Clean(dir))
		}
	}
}

// The fences match the gateway by its name: an account that is renamed in one place only would be out of them.
func TestFencesNameTheGatewaysAccount(t *testing.T) {
	var user string
	for _, object := range manifests(t, "rbac")["rbac/gateway.yaml"] {
		if sa, ok := object.(*corev1.ServiceAccount); ok {
			user = "system:serviceaccount:" + sa.Namespace + ":" + sa.Name
		}
	}
	fences := 0
	for name, objects := range manifests(t, "policy") {
		for _, object := range objects {
			policy, ok := object.(*admissionv1.ValidatingAdmissionPolicy)
			if !ok || !strings.HasPrefix(policy.Name, "gateway-") {
				continue
			}
			fences++
			if got, want := policy.Spec.MatchConditions[0].Expression, "request.userInfo.username == '"+user+"'"; got != want {
				t.Errorf("%s matches %s; want %s", name, got, want)
			}
		}
	}
	if fences != 2 {
		t.Errorf("%d fences, want 2", fences)
	}
}

func TestAccountsMountNoTokenByThemselves(t *testing.T) {
	for name, objects := range manifests(t, "rbac") {
		for _, object := range objects {
			if sa, ok := object.(*corev1.ServiceAccount); ok && (sa.AutomountServiceAccountToken == nil || *sa.AutomountServiceAccountToken) {
				t.Errorf("%s: %s mounts its token into every Pod", name, sa.Name)
			}
		}
	}
}
