//! SEV-SNP guests and their platforms.

use super::*;

/// What a guest and its platform are.
#[derive(Debug, Clone)]
struct Guest {
    product: Product,
    vmpl: u32,
    debug: bool,
    migration_agent: bool,
    smt: bool,
    ecc: bool,
    rapl_off: bool,
    ciphertext_hiding: bool,
    alias_check: Option<bool>,
    bits: u64,
    mitigations: u64,
    tcb: Tcb,
    chip: Vec<u8>,
    masked: bool,
    provider: Option<String>,
    id_key: Option<Vec<u8>>,
    author_key: Option<Vec<u8>>,
}

const PRODUCTS: &[Product] = &[Product::Milan, Product::Genoa, Product::Turin];

const PRODUCT_NAMES: &[&str] = &["milan", "genoa", "turin"];

const PROVIDERS: &[&str] = &["cloud-a", "cloud-b"];

const BIT_NAMES: &[&str] = &["smt", "cxl", "ciphertext-hiding"];

fn guests() -> impl Strategy<Value = Guest> {
    let flags = (any::<[bool; 6]>(), of(any::<bool>()), any::<bool>());
    let numbers = (0..4u32, any::<u64>(), 0..8u64, tcb());
    let keys = (key(), of(select(PROVIDERS)), of(key()), of(key()));
    (select(PRODUCTS), flags, numbers, keys).prop_map(|(product, flags, (vmpl, bits, mitigations, tcb), keys)| {
        let ([debug, migration_agent, smt, ecc, rapl_off, ciphertext_hiding], alias_check, masked) = flags;
        let (chip, provider, id_key, author_key) = keys;
        Guest {
            product,
            vmpl,
            debug,
            migration_agent,
            smt,
            ecc,
            rapl_off,
            ciphertext_hiding,
            alias_check,
            bits,
            mitigations,
            tcb: of_product(product, tcb),
            chip: vec![chip; 64],
            masked,
            provider: provider.map(Into::into),
            id_key: id_key.map(|key| vec![key; 48]),
            author_key: author_key.map(|key| vec![key; 48]),
        }
    })
}

fn snp_kept(policy: &SnpPolicy, guest: &Guest) -> Kept {
    let listed = |list: &Option<BTreeSet<Vec<u8>>>, key: Option<&Vec<u8>>| {
        list.as_ref()
            .is_none_or(|list| key.is_some_and(|key| list.contains(key)))
    };
    let floor = policy.floors.get(&guest.product);
    vec![
        ("products", policy.products.contains(&guest.product)),
        ("max_vmpl", guest.vmpl <= policy.max_vmpl),
        ("debug", policy.allow_debug || !guest.debug),
        (
            "migration_agent",
            policy.allow_migration_agent || !guest.migration_agent,
        ),
        ("smt_off", policy.allow_smt || !guest.smt),
        ("ecc", !policy.require_ecc || guest.ecc),
        ("rapl_off", !policy.require_rapl_disabled || guest.rapl_off),
        (
            "ciphertext_hiding",
            !policy.require_ciphertext_hiding || guest.ciphertext_hiding,
        ),
        (
            "alias_check",
            match policy.alias_check {
                AliasCheck::Required => guest.alias_check == Some(true),
                AliasCheck::WhenReported => guest.alias_check != Some(false),
                AliasCheck::Ignored => true,
            },
        ),
        (
            "guest_policy_required",
            guest.bits & policy.guest_policy_required == policy.guest_policy_required,
        ),
        ("guest_policy_refused", guest.bits & policy.guest_policy_refused == 0),
        (
            "mitigations",
            guest.mitigations & policy.mitigations == policy.mitigations,
        ),
        (
            "floors",
            floor.is_none_or(|floor| guest.tcb.below(floor).next().is_none()),
        ),
        ("denied_chips", !policy.denied_chips.contains(&guest.chip)),
        ("allowed_chips", listed(&policy.allowed_chips, Some(&guest.chip))),
        ("masked_chips", policy.allow_masked_chips || !guest.masked),
        (
            "providers",
            guest
                .provider
                .as_ref()
                .is_none_or(|name| policy.providers.contains(name)),
        ),
        ("id_keys", listed(&policy.id_keys, guest.id_key.as_ref())),
        ("author_keys", listed(&policy.author_keys, guest.author_key.as_ref())),
    ]
}

fn snp_policies() -> impl Strategy<Value = SnpPolicy> {
    let flags = any::<[bool; 7]>();
    let checks = select(&[AliasCheck::Required, AliasCheck::WhenReported, AliasCheck::Ignored][..]);
    let numbers = (0..4u32, 0..8u64, few(BIT_NAMES), few(BIT_NAMES));
    let floors = proptest::collection::btree_map(select(PRODUCTS), tcb(), 0..3).prop_map(|floors| {
        let sound = |(product, tcb): (Product, Tcb)| (product, of_product(product, tcb));
        floors.into_iter().map(sound).collect()
    });
    let lists = (
        some(PRODUCTS),
        keys(64),
        of(keys(64)),
        some(PROVIDERS),
        of(keys(48)),
        of(keys(48)),
    );
    (flags, checks, numbers, floors, lists).prop_map(|(flags, alias_check, numbers, floors, lists)| {
        let bits = |names: Vec<&str>| {
            names
                .iter()
                .filter_map(|name| GuestPolicy::mask(name))
                .fold(0, |a, b| a | b)
        };
        let (products, denied_chips, allowed_chips, providers, id_keys, author_keys) = lists;
        SnpPolicy {
            products,
            max_vmpl: numbers.0,
            allow_debug: flags[0],
            allow_migration_agent: flags[1],
            allow_smt: flags[2],
            require_ecc: flags[3],
            require_rapl_disabled: flags[4],
            require_ciphertext_hiding: flags[5],
            alias_check,
            guest_policy_required: bits(numbers.2),
            guest_policy_refused: bits(numbers.3),
            floors,
            mitigations: numbers.1,
            denied_chips,
            allowed_chips,
            allow_masked_chips: flags[6],
            providers: providers.into_iter().map(str::to_owned).collect(),
            id_keys,
            author_keys,
        }
    })
}

fn snp_said() -> impl Strategy<Value = RegionSnp> {
    use file::{Allowed, Demand, Floor};
    let allowed = || of(select(&[Allowed::Refuse, Allowed::Allow][..]));
    let demand = || of(select(&[Demand::Any, Demand::Required][..]));
    let check = of(select(
        &[
            file::AliasCheck::Required,
            file::AliasCheck::WhenReported,
            file::AliasCheck::Ignored,
        ][..],
    ));
    let flags = (
        check,
        allowed(),
        allowed(),
        allowed(),
        demand(),
        demand(),
        demand(),
        demand(),
    );
    let floor = tcb().prop_map(|tcb| Floor {
        fmc: tcb.fmc,
        bl: tcb.boot_loader,
        tee: tcb.tee,
        snp: tcb.snp,
        ucode: tcb.microcode,
    });
    let floors = proptest::collection::btree_map(select(PRODUCT_NAMES).prop_map(str::to_owned), floor, 0..3);
    let numbers = (
        of(0..5u32),
        btree_set(0..3u8, 0..3),
        words(BIT_NAMES),
        words(BIT_NAMES),
        floors,
    );
    let lists = (
        of(words(PRODUCT_NAMES)),
        hex_keys(64),
        of(hex_keys(64)),
        of(words(PROVIDERS)),
        of(hex_keys(48)),
        of(hex_keys(48)),
    );
    (flags, numbers, lists).prop_map(|(flags, numbers, lists)| RegionSnp {
        alias_check: flags.0,
        debug: flags.1,
        migration_agent: flags.2,
        masked_chips: flags.3,
        smt_off: flags.4,
        ecc: flags.5,
        rapl_off: flags.6,
        ciphertext_hiding: flags.7,
        max_vmpl: numbers.0,
        mitigations: numbers.1.into_iter().collect(),
        guest_policy_required: numbers.2,
        guest_policy_refused: numbers.3,
        floors: numbers.4,
        products: lists.0,
        denied_chips: lists.1,
        allowed_chips: lists.2,
        providers: lists.3,
        id_keys: lists.4,
        author_keys: lists.5,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn sev_snp_only_narrows(whole in snp_policies(), said in snp_said(), guests in vec(guests(), 8)) {
        let mut problems = Vec::new();
        let region = said.narrow(&whole, &mut Rules::new("f", &mut problems));
        for guest in &guests {
            only_narrows(snp_kept(&whole, guest), snp_kept(&region, guest))?;
        }
    }
}
