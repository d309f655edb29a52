package httpapi

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/google/go-cmp/cmp"
)

func document(t testing.TB) *openapi3.T {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(openAPI)
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(context.Background()); err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestOpenAPIHasTheRoutes(t *testing.T) {
	doc := document(t)
	var documented, routed []string
	for path, item := range doc.Paths.Map() {
		for method := range item.Operations() {
			documented = append(documented, method+" "+path)
		}
	}
	for _, rt := range newWorld(t).table {
		routed = append(routed, rt.label)
	}
	slices.Sort(documented)
	slices.Sort(routed)
	if diff := cmp.Diff(routed, documented); diff != "" {
		t.Errorf("routes (-) and document (+) differ:\n%s", diff)
	}
}

func TestOpenAPIHasTheCodes(t *testing.T) {
	var documented []string
	for _, v := range document(t).Components.Schemas["Problem"].Value.Properties["code"].Value.Enum {
		documented = append(documented, v.(string))
	}
	var codes []string
	for _, c := range Codes() {
		codes = append(codes, string(c))
	}
	if diff := cmp.Diff(codes, documented); diff != "" {
		t.Errorf("codes (-) and document (+) differ:\n%s", diff)
	}
}

// checkExchange holds a recorded exchange against the document. Requests that
// were refused need not be as it says; all answers must.
func checkExchange(t *testing.T, doc *openapi3.T, api *API, r *http.Request, body string, rec *httptest.ResponseRecorder) {
	t.Helper()
	handle, params, _ := api.router.Lookup(r.Method, r.URL.Path)
	if handle == nil {
		return
	}
	path := r.URL.Path
	pathParams := map[string]string{}
	for _, p := range params {
		path = strings.TrimSuffix(path, p.Value) + "{" + p.Key + "}"
		pathParams[p.Key] = p.Value
	}
	method := r.Method
	if method == http.MethodHead {
		return
	}
	item := doc.Paths.Find(path)
	if item == nil {
		t.Fatalf("no path %s in the document", path)
	}
	r.Body = io.NopCloser(strings.NewReader(body))
	in := &openapi3filter.RequestValidationInput{Request: r, PathParams: pathParams, QueryParams: r.URL.Query(),
		Route: &routers.Route{Spec: doc, Path: path, PathItem: item, Method: method, Operation: item.GetOperation(method)},
		Options: &openapi3filter.Options{IncludeResponseStatus: true, MultiError: true,
			AuthenticationFunc: openapi3filter.NoopAuthenticationFunc}}
	if rec.Code < 300 {
		if err := openapi3filter.ValidateRequest(context.Background(), in); err != nil {
			t.Errorf("request is not as documented: %v", err)
		}
	}
	answer := &openapi3filter.ResponseValidationInput{RequestValidationInput: in, Status: rec.Code,
		Header: rec.Result().Header, Options: in.Options}
	answer.SetBodyBytes(bytes.Clone(rec.Body.Bytes()))
	if err := openapi3filter.ValidateResponse(context.Background(), answer); err != nil {
		t.Errorf("answer is not as documented: %v", err)
	}
}
