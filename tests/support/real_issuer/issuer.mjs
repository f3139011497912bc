// A real OpenID provider (oidc-provider) on a free port of loopback, for tests. argv[2]: JSON {client, secret, redirects, logout}.
// PUT /test/people takes {sub: {...claims}}: who can sign in, with any password and the sub as login. Prints its issuer on one line.
import http from 'node:http'
import { Provider } from 'oidc-provider'

const given = JSON.parse(process.argv[2])
let people = {}
let answer = (_req, res) => res.writeHead(503).end()
const server = http.createServer((req, res) => answer(req, res))
server.listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`
  const provider = new Provider(issuer, {
    clients: [{
      client_id: given.client,
      client_secret: given.secret,
      redirect_uris: given.redirects,
      response_types: ['code'],
      grant_types: ['authorization_code'],
      backchannel_logout_uri: given.logout,
    }],
    claims: { openid: ['sub', 'groups', 'preferred_username', 'email', 'email_verified', 'amr'] },
    conformIdTokenClaims: false,
    features: { backchannelLogout: { enabled: true } },
    fetch: (url, options) => globalThis.fetch(url, { ...options, dispatcher: undefined }), // its own refuses loopback
    pkce: { required: () => true },
    cookies: { keys: ['only for tests'] },
    findAccount: (_ctx, login) => login in people
      ? { accountId: login, claims: () => ({ ...people[login], sub: login }) }
      : undefined,
    loadExistingGrant: async (ctx) => {
      const grant = new ctx.oidc.provider.Grant({ clientId: ctx.oidc.client.clientId, accountId: ctx.oidc.session.accountId })
      grant.addOIDCScope('openid profile email')
      await grant.save()
      return grant
    },
  })
  const protocol = provider.callback()
  answer = (req, res) => {
    if (req.method !== 'PUT' || req.url !== '/test/people') return protocol(req, res)
    let body = ''
    req.on('data', (part) => { body += part })
    req.on('end', () => { people = JSON.parse(body); res.writeHead(204).end() })
  }
  console.log(issuer)
})
