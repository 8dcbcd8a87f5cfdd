package main

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/rollcall-dev/rollcall/internal/artifact"
)

// TestCheckKinds reads what discovery answers. That the real API server's answer passes is shown wherever the manager starts.
func TestCheckKinds(t *testing.T) {
	resource := func(kind, hash string) metav1.APIResource {
		return metav1.APIResource{Name: strings.ToLower(kind), Kind: kind, StorageVersionHash: hash}
	}
	good := []metav1.APIResource{
		resource("ContentRelease", storageHash("ContentRelease")), resource("Endpoint", storageHash("Endpoint")), resource("EndpointAction", storageHash("EndpointAction")),
		resource("EndpointPolicy", storageHash("EndpointPolicy")), resource("EnrollmentToken", storageHash("EnrollmentToken")),
		resource("Endpoint", storageHash("Endpoint")),
	}
	for _, tc := range []struct {
		name      string
		resources []metav1.APIResource // nil: 404
		says      string
	}{
		{"as they should be", good, ""},
		{"none", nil, "does not serve rollcall.dev/v1alpha1: apply the CRDs of this version"},
		{"one is missing", good[:4], "does not serve EnrollmentToken of rollcall.dev/v1alpha1: apply the CRDs"},
		{"one is stored in another version", slices.Concat(good[:1], good[2:5], []metav1.APIResource{resource("Endpoint", "AAAAAAAAAAA=")}), "stores Endpoint in another version than v1alpha1: apply the CRDs"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if tc.resources == nil || r.URL.Path != "/apis/rollcall.dev/v1alpha1" {
					http.NotFound(w, r)
					return
				}
				w.Header().Set("Content-Type", "application/json")
				_ = json.NewEncoder(w).Encode(metav1.APIResourceList{
					TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: "rollcall.dev/v1alpha1", APIResources: tc.resources,
				})
			}))
			defer server.Close()
			err := checkKinds(&rest.Config{Host: server.URL})
			if tc.says == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, errKinds) || !strings.Contains(err.Error(), tc.says) || passes(err) {
				t.Errorf("got %v (waits for it to pass: %v), want %q", err, passes(err), tc.says)
			}
		})
	}
}

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		args string
		says string
	}{
		{"--gateway-names=gw.example.com,10.0.0.1", ""},
		{"", "--gateway-names is missing"},
		{"--gateway-names=a --beacon-interval=0s", "--beacon-interval must be more than 0"},
		{"--gateway-names=a --csr-retention=-1s", "--csr-retention must be more than 0"},
		{"--gateway-names=a run", `unexpected argument "run"`},
		{"--gateway-names=a --log-level=all", "--log-level is info or debug"},
		{"--gateway-names=a --fault=claimed", "unknown flag: --fault"},
	} {
		t.Run(tc.args, func(t *testing.T) {
			o, err := parse(strings.Fields(tc.args))
			if tc.says == "" {
				if err != nil || o.gatewayURL != "https://gw.example.com:8443" || len(o.gatewayNames) != 2 {
					t.Errorf("got %+v, %v", o, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v, want %q", err, tc.says)
			}
		})
	}
}

func TestStoreNotShared(t *testing.T) {
	directory, bucket := "--artifact-store=file://"+t.TempDir(), "--artifact-store=s3://fleet?region=here"
	for _, tc := range []struct {
		args []string
		want bool
	}{
		{[]string{directory}, true},
		{[]string{directory, "--gateway-token-file=/run/token"}, false},
		{[]string{directory, "--artifact-store-shared"}, false},
		{[]string{bucket}, false},
	} {
		o, err := parse(append(tc.args, "--gateway-names=a"))
		if err != nil {
			t.Fatal(err)
		}
		s, err := artifact.Open(t.Context(), o.artifactStore)
		if err != nil {
			t.Fatal(err)
		}
		if got := o.notShared(s); got != tc.want {
			t.Errorf("%v: %v", tc.args, got)
		}
		_ = s.Close()
	}
}
