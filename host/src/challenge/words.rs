//! Word lists, one string each, words separated by `|`. Part of the template version:
//! whoever changes a list raises [`super::TEMPLATE_VERSION`], and the published vectors
//! of `host/docs/challenges.md` with it.
//!
//! Lists of the languages hold whole phrases, so that grammar (gender, case, word order)
//! holds whichever phrases meet.

/// The list of that name; `None` if there is none.
pub fn list(name: &str) -> Option<&'static str> {
    LISTS.iter().find(|(key, _)| *key == name).map(|(_, words)| *words)
}

/// Every list with its name.
pub const LISTS: &[(&str, &str)] = &[
    (
        "name",
        "Anna|Ben|Clara|David|Emma|Felix|Grace|Hugo|Iris|Jonas|Kate|Leo|Maria|Noah|Olga|Paul|Quinn|Rosa|\
         Sam|Tina|Uma|Victor|Wendy|Xavier|Yara|Zoe|Amir|Bella|Chen|Diego|Elena|Farid|Gita|Hana|Ivan|Jamal|\
         Kofi|Lina|Mei|Nadia",
    ),
    (
        "place",
        "Lisbon|Kyoto|Nairobi|Oslo|Lima|Cairo|Delhi|Toronto|Vienna|Athens|Dublin|Havana|Seoul|Prague|Quito|\
         Rome|Sydney|Tunis|Utrecht|Warsaw|Zurich|Bogota|Dakar|Geneva|Hanoi|Jakarta|Krakow|Lyon|Madrid|\
         Naples|Porto|Riga|Sofia|Tallinn|Ankara|Boston|Chicago|Denver|Bergen|Malaga",
    ),
    (
        "role",
        "teacher|sailor|doctor|baker|farmer|painter|judge|pilot|nurse|lawyer|soldier|singer|builder|gardener|\
         chemist|writer|tailor|banker|clerk|carpenter|fisherman|librarian|musician|shepherd|watchmaker|miner|\
         engineer|dancer|student|traveller",
    ),
    (
        "adj",
        "small|old|bright|quiet|broken|heavy|strange|golden|cold|famous|hidden|empty|gentle|wooden|silver|\
         narrow|distant|ancient|simple|careful|dusty|curious|brave|warm|round|bitter|common|fragile|green|\
         hollow|loud|modern|pale|rare|sharp|silent|soft|sudden|tall|useful",
    ),
    (
        "object",
        "lantern|key|map|clock|letter|bridge|mirror|basket|ladder|violin|hammer|ring|window|kettle|compass|\
         blanket|bottle|candle|drum|feather|glove|helmet|jar|kite|lamp|medal|needle|oar|pencil|rope|saddle|\
         table|umbrella|vase|wheel|bell|book|chair|coin|door",
    ),
    (
        "animal",
        "fox|horse|owl|rabbit|bear|cat|dog|wolf|deer|goat|mouse|duck|eagle|frog|hen|lion|otter|pony|raven|\
         seal|sheep|snake|swan|tiger|turtle|whale|bee|crab|crow|donkey",
    ),
    (
        "food",
        "bread|honey|apples|rice|cheese|soup|onions|plums|beans|butter|cherries|corn|dates|eggs|figs|garlic|\
         grapes|lemons|lentils|milk|nuts|olives|oranges|pasta|peaches|pears|pepper|potatoes|salt|tomatoes",
    ),
    (
        "scene",
        "river|market|forest|harbour|mountain|garden|village|station|museum|castle|desert|island|library|\
         meadow|palace|quarry|school|temple|valley|windmill|bakery|beach|canal|farm|hospital|kitchen|\
         lighthouse|orchard|square|tower",
    ),
    (
        "topic",
        "photosynthesis|gravity|inflation|the water cycle|electricity|evolution|plate tectonics|magnetism|\
         democracy|the printing press|vaccination|sound waves|the solar system|fermentation|erosion|\
         the silk road|steam engines|the human heart|glaciers|probability|algebra|nutrition|trade winds|\
         volcanoes|migration|the moon|metallurgy|navigation|rainbows|bridges",
    ),
    (
        "field",
        "physics|history|biology|chemistry|geography|economics|medicine|astronomy|law|music|mathematics|\
         philosophy|engineering|linguistics|architecture|geology|psychology|politics|farming|painting",
    ),
    (
        "trade",
        "shipbuilding|weaving|pottery|glass making|printing|fishing|mining|brewing|banking|wine growing|\
         silk trading|paper making|wood carving|horse breeding|clock making|salt trading|spice trading|\
         gold working|bridge building|map making",
    ),
    (
        "things",
        "gardens|bridges|markets|museums|churches|harbours|theatres|universities|towers|canals|libraries|\
         festivals|palaces|parks|railways|workshops|bakeries|beaches|castles|streets",
    ),
    (
        "items",
        "coins|apples|marbles|books|stamps|pencils|candles|buttons|shells|tickets|cards|stones|flowers|\
         bottles|boxes|cups|nails|plates|ribbons|spoons|balls|bags|keys|lamps|maps|nuts|pears|ropes|toys|hats",
    ),
    (
        "style",
        "cheerful|formal|poetic|brief|humorous|serious|dramatic|friendly|plain|mysterious|polite|angry|\
         hopeful|sad|scientific|childlike|legal|nervous|proud|calm",
    ),
    (
        "form",
        "story|letter|poem|speech|news report|diary entry|recipe|riddle|dialogue|summary|advertisement|song|\
         review|warning|fable|travel guide|postcard|interview|menu|prayer",
    ),
    (
        "verb",
        "count|merge|filter|parse|sort|update|remove|collect|convert|find|group|join|load|mark|pack|rank|\
         reverse|scale|split|store|sum|swap|trim|validate|wrap|build|check|compare|copy|encode",
    ),
    (
        "noun",
        "orders|users|lines|files|pixels|nodes|records|words|prices|events|tokens|matrices|packets|paths|\
         points|queues|rows|scores|tables|tags|tasks|trees|values|vectors|weights|names|edges|dates|bytes|\
         accounts",
    ),
    (
        "arg",
        "items|source|target|limit|start|offset|name|index|width|height|factor|depth|mode|size|flags|key|left|\
         right|first|last",
    ),
    (
        "time",
        "on a Monday morning|late at night|after the storm|before dinner|in early spring|at noon|during the war|\
         in the winter|after the wedding|at sunset|on the last day of May|before sunrise|in a hot summer|\
         during the festival|after school|one autumn evening",
    ),
    (
        "de.who",
        "Der alte Fischer|Die junge Ärztin|Mein Nachbar|Die Lehrerin|Der Bäcker|Ein fremder Reiter|\
         Die Königin|Das kleine Kind|Der Förster|Meine Tante|Der müde Soldat|Die Schneiderin|Ein junger Maler|\
         Der Müller|Die Köchin|Unser Richter",
    ),
    (
        "de.did",
        "suchte einen Schlüssel|schrieb einen langen Brief|fand eine goldene Münze|kaufte frisches Brot|\
         verlor seinen Hut|hörte leise Musik|öffnete die schwere Tür|zeichnete eine Karte|erzählte ein Märchen|\
         sah einen weißen Vogel|trank heißen Tee|las ein altes Buch|baute eine kleine Brücke|sang ein Lied|\
         zählte die Sterne|wartete auf den Zug",
    ),
    (
        "de.where",
        "am Hafen|im tiefen Wald|auf dem Markt|hinter der Kirche|in der Küche|am Ufer des Flusses|im Garten|\
         vor dem Rathaus|auf dem Berg|in der alten Mühle|am Bahnhof|unter der Brücke|im Museum|neben der Schule|\
         auf der Insel|im Keller",
    ),
    (
        "fr.who",
        "Le vieux pêcheur|La jeune doctoresse|Mon voisin|La maîtresse|Le boulanger|Un cavalier inconnu|\
         La reine|Le petit enfant|Le forestier|Ma tante|Le soldat fatigué|La couturière|Un jeune peintre|\
         Le meunier|La cuisinière|Notre juge",
    ),
    (
        "fr.did",
        "cherchait une clé|écrivait une longue lettre|trouva une pièce d'or|acheta du pain frais|\
         perdit son chapeau|écoutait une douce musique|ouvrit la lourde porte|dessina une carte|\
         racontait une histoire|vit un oiseau blanc|buvait du thé chaud|lisait un vieux livre|\
         construisit un petit pont|chantait une chanson|comptait les étoiles|attendait le train",
    ),
    (
        "fr.where",
        "au port|dans la forêt|sur le marché|derrière l'église|dans la cuisine|au bord de la rivière|\
         dans le jardin|devant la mairie|sur la montagne|dans le vieux moulin|à la gare|sous le pont|au musée|\
         près de l'école|sur l'île|dans la cave",
    ),
    (
        "es.who",
        "El viejo pescador|La joven doctora|Mi vecino|La maestra|El panadero|Un jinete desconocido|La reina|\
         El niño pequeño|El guardabosques|Mi tía|El soldado cansado|La costurera|Un joven pintor|El molinero|\
         La cocinera|Nuestro juez",
    ),
    (
        "es.did",
        "buscaba una llave|escribió una carta larga|encontró una moneda de oro|compró pan fresco|\
         perdió su sombrero|escuchaba música suave|abrió la puerta pesada|dibujó un mapa|contaba un cuento|\
         vio un pájaro blanco|bebía té caliente|leía un libro viejo|construyó un puente pequeño|\
         cantaba una canción|contaba las estrellas|esperaba el tren",
    ),
    (
        "es.where",
        "en el puerto|en el bosque|en el mercado|detrás de la iglesia|en la cocina|a la orilla del río|\
         en el jardín|delante del ayuntamiento|en la montaña|en el viejo molino|en la estación|bajo el puente|\
         en el museo|junto a la escuela|en la isla|en el sótano",
    ),
    (
        "ru.who",
        "Старый рыбак|Молодой врач|Мой сосед|Учитель|Пекарь|Незнакомый всадник|Король|Маленький мальчик|\
         Лесник|Мой дядя|Усталый солдат|Портной|Молодой художник|Мельник|Повар|Наш судья",
    ),
    (
        "ru.did",
        "искал ключ|писал длинное письмо|нашёл золотую монету|купил свежий хлеб|потерял шляпу|слушал музыку|\
         открыл тяжёлую дверь|нарисовал карту|рассказывал сказку|увидел белую птицу|пил горячий чай|\
         читал старую книгу|построил мост|пел песню|считал звёзды|ждал поезд",
    ),
    (
        "ru.where",
        "в порту|в лесу|на рынке|за церковью|на кухне|на берегу реки|в саду|перед ратушей|на горе|\
         на старой мельнице|на вокзале|под мостом|в музее|возле школы|на острове|в подвале",
    ),
    (
        "zh.who",
        "老渔夫|年轻的医生|我的邻居|老师|面包师|一个陌生的骑手|女王|小男孩|护林员|我的姑姑|疲惫的士兵|裁缝|年轻的画家|磨坊主|厨师|我们的法官",
    ),
    (
        "zh.did",
        "寻找一把钥匙|写了一封长信|发现了一枚金币|买了新鲜的面包|丢了帽子|听着轻柔的音乐|打开了沉重的门|画了一张地图|\
         讲了一个故事|看见一只白鸟|喝着热茶|读一本旧书|建了一座小桥|唱了一首歌|数着星星|等待火车",
    ),
    (
        "zh.where",
        "在港口|在森林里|在市场上|在教堂后面|在厨房里|在河边|在花园里|在市政厅前|在山上|在旧磨坊里|在车站|在桥下|\
         在博物馆里|在学校旁边|在岛上|在地下室里",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_list_repeats_a_word_or_has_an_empty_one() {
        let mut names = HashSet::new();
        for (name, words) in LISTS {
            assert!(names.insert(name), "list {name} twice");
            let mut seen = HashSet::new();
            for word in words.split('|') {
                assert!(!word.trim().is_empty() && word == word.trim(), "{name}: {word:?}");
                assert!(seen.insert(word), "{name}: {word} twice");
            }
            assert!(seen.len() >= 16, "{name} has only {} words", seen.len());
        }
    }
}
