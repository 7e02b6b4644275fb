// A file of its own: the page's Content-Security-Policy forbids inline scripts.
SwaggerUIBundle({ url: "openapi.json", dom_id: "#docs", deepLinking: true, validatorUrl: null });
