package audit

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRights(t *testing.T) {
	dir, rbac := t.TempDir(), t.TempDir()
	role := `
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
rules:
- {apiGroups: [rollcall.dev], resources: [endpoints], verbs: [get, list, watch, admit]}
- {apiGroups: [""], resources: [secrets], resourceNames: [key], verbs: [get]}
`
	token := `
kind: Role
rules:
- {apiGroups: [""], resources: [serviceaccounts/token], resourceNames: [rollcall-gateway], verbs: [create]}
`
	used := "used " + Manager + " "
	for path, text := range map[string]string{
		filepath.Join(rbac, "manager.yaml"): role, filepath.Join(rbac, "gateway.yaml"): "kind: ServiceAccount\n", filepath.Join(rbac, "gateway-token.yaml"): token,
		filepath.Join(dir, "rights-1"): used + "watch endpoints.rollcall.dev\n" + used + "get secrets key\nmissing " + Manager + " watch endpoints.rollcall.dev\n",
		filepath.Join(dir, "rights-2"): "missing " + Gateway + " get secrets key\nmissing " + Gateway + " list tokens\nused " + Gateway + " watch tokens\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	granted, unused, missing, err := Rights(dir, rbac)
	wantUnused := "manager.yaml: get endpoints.rollcall.dev,gateway-token.yaml: create serviceaccounts/token rollcall-gateway"
	if err != nil || granted != 6 || strings.Join(unused, ",") != wantUnused || strings.Join(missing, ",") != Gateway+" get secrets key" {
		t.Errorf("%d granted, unused %q, missing %q, %v", granted, unused, missing, err)
	}
}
